"""Clients of libraries that send every request anyway: as a transaction, a trace or a segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from usercontext.clients.hooks import HookingClient

if TYPE_CHECKING:
    from collections.abc import Collection

    from usercontext.types import GetUser
    from usercontext.user import User

__all__ = ["Opened", "TransactionClient"]


class Opened(Protocol):
    """What finds the transactions that are open around the current request."""

    def opened(self) -> Collection[Any]:
        """Return them."""
        ...


class TransactionClient(HookingClient):
    """Names the user in what a library has open around the current request.

    Args:
        kept: finds what is open: a `RequestTransaction`, `RequestSpans`, or what does as they do.
    """

    def __init__(self, kept: Opened) -> None:
        super().__init__()
        self._kept = kept

    def is_sampled(self, transaction: Any) -> bool:  # noqa: ARG002
        """Return whether it will be sent."""
        return True

    def name(self, transaction: Any, user: dict[str, Any] | None) -> None:
        """Replace its user: write or remove every key that is ours; None is nobody."""

    def start(self, transaction: Any) -> None:
        """Remove what the library collected before our middleware was reached."""

    def request_scope(self, get_user: GetUser, /) -> None:
        """Find what is open, where the library's own middleware is outside of ours."""
        del get_user
        for one in self._kept.opened():
            self.start(one)

    def is_recording(self) -> bool:
        """Return whether the request is in a transaction that will be sent."""
        for one in self._kept.opened():  # noqa: SIM110 - each request pays for `any()`
            if self.is_sampled(one):
                return True
        return False

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of what is open."""
        opened = self._kept.opened()
        fields = user.to_dict() if opened and user is not None else None
        for one in opened:
            self.name(one, fields)
