"""Names the user in what a raygun4py sender sends, by its callback before sending."""

from __future__ import annotations

from typing import Any, ClassVar

from usercontext.clients.collected import Places
from usercontext.clients.fields import identifier, renamed
from usercontext.clients.hooks import Chained
from usercontext.clients.payload import PayloadClient

__all__ = ["RaygunClient"]

# The user's fields beside the identifier, as Raygun calls them.
_FIELDS = {"username": "firstName", "name": "fullName", "email": "email"}


class RaygunClient(PayloadClient):
    """Makes ours the user of every report of a sender.

    Inside a request ours is the whole truth: what `set_user()` of the sender was given, which
    holds for the whole process, and a `user_override` are replaced.

    What it cannot do: a sender has one callback. The one set before ours still runs, and runs
    after it; one that is set later replaces ours. An error that is sent when its request is over
    must be sent inside of its `except` block, as Raygun does not hand on the exception.

    Args:
        sender: the `raygun4py.raygunprovider.RaygunSender` that the app reports with.
    """

    lost: ClassVar[tuple[str, str]] = (
        "raygun report",
        "a report of raygun went out without its user",
    )
    places: ClassVar[Places] = Places(address="iPAddress")

    spoken: ClassVar[tuple[str, ...]] = ("error",)

    def __init__(self, sender: Any) -> None:
        super().__init__()
        self._sender = sender

    def hook(self) -> None:
        """Set the callback before the one that is set."""
        self._sender.on_before_send(Chained(self.fill, self._sender.before_send_callback))

    def write(self, details: dict[str, Any], user: dict[str, Any] | None) -> None:
        """Replace the user of a report."""
        known_by = identifier(user)
        named = {} if known_by is None else {"identifier": known_by}
        details["user"] = {"isAnonymous": known_by is None, **named, **renamed(user, _FIELDS)}
