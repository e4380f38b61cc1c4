"""Names the user in what a raygun4py sender sends, by its callback before sending."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import address_of, cleaned_headers, record_of
from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from usercontext.types import GetUser

__all__ = ["RaygunClient"]


class RaygunClient(BaseClient):
    """Makes ours the user of every report of a sender.

    Inside a request ours is the whole truth: what `set_user()` of the sender was given, which
    holds for the whole process, and a `user_override` are replaced.

    What it cannot do: a sender has one callback. The one set before ours still runs, and runs
    after it; one that is set later replaces ours. An error that is sent when its request is over
    must be sent inside of its `except` block, as Raygun does not hand on the exception.

    Args:
        sender: the `raygun4py.raygunprovider.RaygunSender` that the app reports with.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def setup(self, get_user: GetUser, /) -> None:
        """Set the callback before the one that is set."""
        following = self._sender.before_send_callback

        def before_send(details: dict[str, Any]) -> Any:
            with harmless("raygun report", "a report of raygun went out without its user"):
                _name_user(details, get_user)
            return details if following is None else following(details)

        self._sender.on_before_send(before_send)


def _name_user(details: dict[str, Any], get_user: GetUser) -> None:
    error = sys.exc_info()[1]
    record = record_of(error)
    if record is None:
        return
    user = get_user(error)
    details["user"] = {"isAnonymous": True} if user is None else _raygun_user(user)
    request = details.get("request")
    if not isinstance(request, dict):
        return
    details["request"] = request = dict(request)
    if "iPAddress" in request:
        request["iPAddress"] = address_of(record)
    if isinstance(request.get("headers"), dict):
        request["headers"] = cleaned_headers(request["headers"], record)


def _raygun_user(user: dict[str, Any]) -> dict[str, Any]:
    identifier = user.get("id") or user.get("username") or user.get("email")
    fields = {
        "identifier": identifier,
        "firstName": user.get("username"),
        "fullName": user.get("name"),
        "email": user.get("email"),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return {"isAnonymous": identifier is None, **given}
