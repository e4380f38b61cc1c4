"""Names the user in the standard library's log records, by a filter for handlers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from usercontext.clients.base import BaseClient
from usercontext.clients.log_fields import LogClient
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from usercontext.types import GetUser

__all__ = ["LoggingClient", "UserFilter"]

_RESERVED: Final = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class UserFilter(LogClient, logging.Filter):
    """Adds `user_id` and the like to records, and lets every one of them pass.

    It belongs on a handler: a logger's own filter does not see the records of loggers below it.
    With a queue it belongs on the `QueueHandler`, which runs where the line was written. What
    the user lacks is None, so that a format such as `%(user_id)s` never loses a line.

        "filters": {"user": {"()": "usercontext.clients.logging.UserFilter"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["user"]}},

    Args:
        fields: see `LogClient`; the names become attributes of the record.
        resolve: see `LogClient`.

    Raises:
        ConfigurationError: `fields` uses a name that every log record has itself.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None, resolve: bool = False) -> None:
        super().__init__(fields=fields, resolve=resolve)
        logging.Filter.__init__(self)
        for name in self._fields.values():
            if name in _RESERVED:
                raise ConfigurationError(
                    f"fields: {name} is an attribute of every log record: choose another name"
                )

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; return True."""
        self.add_user(vars(record), _error_of, absent=True)
        return True


def _error_of(line: Mapping[str, object]) -> object:
    exc_info = line.get("exc_info")
    return exc_info[1] if isinstance(exc_info, tuple) else None


class LoggingClient(BaseClient):
    """Puts a `UserFilter` on handlers of the standard library's logging.

    Where `logging.config.dictConfig` makes the handlers, name the filter there instead.

    Args:
        handlers: which handlers; by default those that the root logger has when the client is
            set up.
        fields: see `UserFilter`.
        resolve: see `UserFilter`.

    Raises:
        ConfigurationError: see `UserFilter`.
    """

    def __init__(
        self,
        handlers: Iterable[logging.Handler] | None = None,
        *,
        fields: Mapping[str, str] | None = None,
        resolve: bool = False,
    ) -> None:
        self._handlers = None if handlers is None else list(handlers)
        self._filter = UserFilter(fields=fields, resolve=resolve)

    def setup(self, get_user: GetUser, /) -> None:
        """Put the filter on the handlers."""
        self._filter.setup(get_user)
        self.look_again()

    def look_again(self) -> None:
        """Put the filter on the handlers that have been configured since."""
        handlers = logging.getLogger().handlers if self._handlers is None else self._handlers
        for handler in handlers:
            handler.addFilter(self._filter)
