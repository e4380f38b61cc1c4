"""Names the user in the traces of MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.fields import identifier
from usercontext.clients.hooks import HookingClient
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.types import GetUser

__all__ = ["MlflowClient"]

_MARK: Final = "_usercontext"


class MlflowClient(HookingClient):
    """Makes the current user the user of MLflow's traces: their metadata `mlflow.trace.user`.

    A trace that ends in a request has its user: the id, else the username, else the e-mail
    address. It follows tasks, and threads by `bind()`. What the app says with
    `mlflow.update_current_trace(user=...)` or `mlflow.tracing.context(user=...)` wins.

    What it cannot do: `mlflow.tracing.configure(span_processors=[...])`, called by the app, takes
    our processor out until the next request begins.

    Raises:
        MissingDependencyError: mlflow is not installed, or is too old.

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        super().__init__()
        with importing("mlflow-tracing", "mlflow", purpose="MlflowClient"):
            from mlflow.tracing import configure
            from mlflow.tracing.config import get_config
            from mlflow.tracing.constant import TraceMetadataKey
            from mlflow.tracing.trace_manager import InMemoryTraceManager
        self._configure: Any = configure
        self._get_config: Any = get_config
        self._key: str = TraceMetadataKey.TRACE_USER
        self._traces: Any = InMemoryTraceManager
        self._processor: Any = _processor(self.name_trace)

    def hook(self) -> None:
        """Add our processor to those that MLflow calls as a span ends."""
        processors = self._get_config().span_processors
        if self._processor not in processors:
            ours = [one for one in processors if not _is_ours(one)]
            self._configure(span_processors=[*ours, self._processor])

    def request_scope(self, get_user: GetUser, /) -> None:
        """Put the processor back where the app has configured its own since."""
        del get_user
        self.hook()

    def name_trace(self, span: Any) -> None:
        """Name the user of a trace whose first span ends; what MLflow calls."""
        if span.parent_id is not None:
            return
        with harmless("MLflow trace", "a trace of MLflow went out without its user"):
            user = identifier(self._get_user())
            if user is None:
                return
            with self._traces.get_instance().get_trace(span.trace_id) as trace:
                if trace is not None:
                    trace.info.trace_metadata.setdefault(self._key, user)


def _processor(name_trace: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a plain function, as MLflow counts the parameters of what it is to call."""

    def name_user(span: Any) -> None:
        name_trace(span)

    setattr(name_user, _MARK, True)
    return name_user


def _is_ours(processor: object) -> bool:
    return hasattr(processor, _MARK)
