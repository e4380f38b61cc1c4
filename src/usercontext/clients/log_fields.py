"""What the clients of log libraries share: which fields of the user a line gets, and when none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.fields import checked_fields, renamed
from usercontext.clients.hooks import HookingClient
from usercontext.core.record import UNKNOWN, current
from usercontext.diagnostics import harmless, warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FIELDS", "LogClient"]

#: The user's fields, and what a log line calls them.
FIELDS: Final[Mapping[str, str]] = {
    "id": "user_id",
    "username": "user_name",
    "email": "user_email",
    "ip_address": "client_address",
}


class LogClient(HookingClient):
    """Adds the user to log lines; by default only one who is known already.

    A line that names one of the fields itself is left as it is: whose id it says, his are the
    other fields, and two people are never blended.

    Args:
        fields: the user's fields to add, each with its name in the log; extra keys such as
            `{"plan": "user_plan"}` are possible. By default `FIELDS`.
        resolve: ask the resolver for a line's user. By default a line only peeks: otherwise a
            request that logs once would always be resolved.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None, resolve: bool = False) -> None:
        super().__init__()
        self._fields = checked_fields(fields, FIELDS)
        self._resolve = resolve

    def add_user(
        self, line: Any, find_error: Callable[[Any], object], *, absent: bool = False
    ) -> None:
        """Add the fields of the user to a line's dict; it never raises.

        Args:
            line: the dict to fill.
            find_error: finds the exception that the line reports, in whatever form.
            absent: fill in None for the fields that the user does not have.
        """
        with harmless(f"{type(self).__qualname__} line", "a log line went out without its user"):
            if any(name in line for name in self._fields.values()):
                return
            error = find_error(line)
            user = self._get_user(
                error if isinstance(error, BaseException) else None, resolve=self._resolve
            )
            if user is None and self._resolve:
                _say_what_an_async_resolver_needs()
            if absent:
                line.update(dict.fromkeys(self._fields.values()))
            line.update({name: _escaped(one) for name, one in renamed(user, self._fields).items()})


def _say_what_an_async_resolver_needs() -> None:
    record = current()
    if record is None or record.user is not UNKNOWN or not record.settings.is_async:
        return
    name = record.settings.resolver_name
    message = (
        '%s is async, and a log line cannot await it: write resolve="eager" beside resolver=, or '
        "await resolve_user() first"
    )
    warn_once(f"{name}: in a log line", message, name)


# Not those that format a text's direction either: they show a line in another order.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _escaped(value: Any) -> Any:
    """Return a value whose texts cannot end a line of the log, nor write another one."""
    if isinstance(value, str):
        return value if value.isprintable() else _CONTROLS.sub(_escape, value)
    if isinstance(value, dict):
        return {_escaped(name): _escaped(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(one) for one in value]
    return value


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
