"""Names the user in loguru's records, by a patcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.log_fields import LogClient
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LoguruClient"]


class LoguruClient(LogClient):
    """Adds `user_id` and the like to `record["extra"]`.

    loguru has one patcher: the app's own, configured before, still runs, and runs first. One
    that is configured later replaces ours; call the client in it: `client(record)`.

    Args:
        fields: see `LogClient`.
        resolve: see `LogClient`.

    Raises:
        ConfigurationError: see `LogClient`.
        MissingDependencyError: loguru is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None, resolve: bool = False) -> None:
        super().__init__(fields=fields, resolve=resolve)
        with importing("loguru", "loguru", purpose="LoguruClient"):
            from loguru import logger
        self._logger: Any = logger
        self._patcher: Callable[[Any], None] | None = None

    def look_again(self) -> None:
        """Put the patcher behind one that has been configured since."""
        # No public call tells the patcher that is configured.
        if self._logger._core.patcher is not self._patcher:
            self.hook()

    def hook(self) -> None:
        """Put the patcher behind the one that is configured."""
        self._patcher = self._after(self._logger._core.patcher)
        self._logger.configure(patcher=self._patcher)

    def _after(self, patcher: Callable[[Any], None] | None) -> Callable[[Any], None]:
        if patcher is None:
            return self

        def both(record: Any) -> None:
            patcher(record)
            self(record)

        return both

    def __call__(self, record: dict[str, Any], /) -> None:
        """Add the fields to a record; what loguru calls."""
        error = record["exception"]
        self.add_user(record["extra"], lambda _: None if error is None else error.value)
