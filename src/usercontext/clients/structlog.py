"""Names the user in structlog's events, by a processor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.clients.log_fields import LogClient
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["StructlogClient"]


class StructlogClient(LogClient):
    """Adds `user_id` and the like to events; it is itself the processor.

    Put it into `structlog.configure(processors=[...])`, after `merge_contextvars` and before
    what formats exceptions. Where it is not, `init(clients=[...])` inserts it there into the
    processors configured by then.

    Args:
        fields: see `LogClient`.
        resolve: see `LogClient`.

    Raises:
        ConfigurationError: see `LogClient`.
        MissingDependencyError: structlog is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None, resolve: bool = False) -> None:
        super().__init__(fields=fields, resolve=resolve)
        with importing("structlog", "structlog", purpose="StructlogClient"):
            import structlog
        self._structlog = structlog

    def look_again(self) -> None:
        """Insert the processor into what has been configured since."""
        self.hook()

    def hook(self) -> None:
        """Insert the processor, unless the app has placed it itself."""
        processors: list[Any] = self._structlog.get_config()["processors"]
        if any(one is self for one in processors):
            return
        merge = self._structlog.contextvars.merge_contextvars
        # In place, as loggers that are bound already keep this very list. What the app has
        # bound itself must be there first, to be left alone.
        processors.insert(processors.index(merge) + 1 if merge in processors else 0, self)

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any], /
    ) -> MutableMapping[str, Any]:
        """Add the fields to an event; what structlog calls."""
        del logger, method
        self.add_user(event, _error_of)
        return event


def _error_of(event: Mapping[str, object]) -> object:
    error = event.get("exc_info")
    if isinstance(error, tuple):
        return error[1]
    return sys.exc_info()[1] if error is True else error
