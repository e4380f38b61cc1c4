"""Names the user in what a pybrake notifier sends to Airbrake, by a filter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import cleaned_headers, record_of
from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from usercontext.types import GetUser

__all__ = ["PybrakeClient"]


class PybrakeClient(BaseClient):
    """Makes ours the `context.user` of every notice of a notifier, and our address its `userAddr`.

    Inside a request ours is the whole truth: what pybrake's own middlewares take from the
    framework is replaced, and removed where the user is nobody.

    What it cannot do: an error that is sent when its request is over must be sent inside of its
    `except` block, as pybrake does not hand on the exception.

    Args:
        notifier: the `pybrake.Notifier` that the app reports with.
    """

    def __init__(self, notifier: Any) -> None:
        self._notifier = notifier

    def setup(self, get_user: GetUser, /) -> None:
        """Add the filter; pybrake runs the one that was added last first."""

        def name_user(notice: dict[str, Any]) -> dict[str, Any]:
            with harmless("pybrake notice", "a notice of pybrake went out without its user"):
                _name_user(notice, get_user)
            return notice

        self._notifier.add_filter(name_user)


def _name_user(notice: dict[str, Any], get_user: GetUser) -> None:
    error = sys.exc_info()[1]
    record = record_of(error)
    if record is None:
        return
    user = get_user(error) or {}
    context = {**notice.get("context", {})}
    notice["context"] = context
    address = user.pop("ip_address", None)
    for name, value in (("user", user), ("userAddr", address)):
        context.pop(name, None)
        if value:
            context[name] = value
    if isinstance(context.get("headers"), dict):
        context["headers"] = cleaned_headers(context["headers"], record)
