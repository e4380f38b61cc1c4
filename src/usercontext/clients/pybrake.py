"""Names the user in what a pybrake notifier sends to Airbrake, by a filter."""

from __future__ import annotations

from typing import Any, ClassVar

from usercontext.clients.collected import Places
from usercontext.clients.payload import PayloadClient

__all__ = ["PybrakeClient"]


class PybrakeClient(PayloadClient):
    """Makes ours the `context.user` of every notice of a notifier, and our address its `userAddr`.

    Inside a request ours is the whole truth: what pybrake's own middlewares take from the
    framework is replaced, and removed where the user is nobody.

    What it cannot do: an error that is sent when its request is over must be sent inside of its
    `except` block, as pybrake does not hand on the exception.

    Args:
        notifier: the `pybrake.Notifier` that the app reports with.
    """

    lost: ClassVar[tuple[str, str]] = (
        "pybrake notice",
        "a notice of pybrake went out without its user",
    )
    places: ClassVar[Places] = Places("context")

    spoken: ClassVar[tuple[str, ...]] = ("errors",)

    def __init__(self, notifier: Any) -> None:
        super().__init__()
        self._notifier = notifier

    def hook(self) -> None:
        """Add the filter; pybrake runs the one that was added last first."""
        self._notifier.add_filter(self.fill)

    def write(self, notice: dict[str, Any], user: dict[str, Any] | None) -> None:
        """Replace user and address in the notice's context."""
        named = {"user": user or {}, "userAddr": (user or {}).pop("ip_address", None)}
        others = {name: one for name, one in notice.get("context", {}).items() if name not in named}
        notice["context"] = others | {name: one for name, one in named.items() if one}
