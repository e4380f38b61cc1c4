"""What the clients of log libraries share: which fields of the user a line gets, and when none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.checks import renames
from usercontext.clients.base import BaseClient
from usercontext.core.context import pull_user
from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.types import GetUser

__all__ = ["FIELDS", "LogClient", "checked_fields"]

#: The user's fields, and what a log line calls them.
FIELDS: Final[Mapping[str, str]] = {
    "id": "user_id",
    "username": "user_name",
    "email": "user_email",
    "ip_address": "client_address",
}


class LogClient(BaseClient):
    """Adds the user to log lines; by default only one who is known already.

    A line that names one of the fields itself is left as it is: whose id it says, his are the
    other fields, and two people are never blended.

    Args:
        fields: the user's fields to add, each with its name in the log; extra keys such as
            `{"plan": "user_plan"}` are possible. By default `FIELDS`.
        resolve: ask the resolver for a line's user. By default a line only peeks: otherwise a
            request that logs once would always be resolved.

    Raises:
        ConfigurationError: `fields` is no mapping of names.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None, resolve: bool = False) -> None:
        self._fields = checked_fields(FIELDS if fields is None else fields)
        self._resolve = resolve
        # A filter or processor works before, and without, being one of `init(clients=[...])`.
        self._get_user: GetUser = pull_user

    def setup(self, get_user: GetUser, /) -> None:
        """Keep the function that pulls the user of the current request."""
        self._get_user = get_user

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
            for field, name in self._fields.items():
                if user is not None and field in user:
                    line[name] = user[field]
                elif absent:
                    line[name] = None


def checked_fields(fields: object) -> dict[str, str]:
    """Return a copy of a map of fields to names, or raise the ConfigurationError that mends it."""
    return renames("fields", fields, "names", '{"id": "user_id"}')
