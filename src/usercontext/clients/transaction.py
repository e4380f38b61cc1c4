"""Clients of libraries that send every request anyway: as a transaction, a trace or a segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.hooks import HookingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from usercontext.types import GetUser
    from usercontext.user import User

__all__ = ["TransactionClient"]


class TransactionClient(HookingClient):
    """Names the user in what a library has open around the current request.

    Args:
        opened: finds what is open; see `RequestTransaction` and `RequestSpans`.
    """

    def __init__(self, opened: Callable[[], Collection[Any]]) -> None:
        super().__init__()
        self._opened = opened

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
        for one in self._opened():
            self.start(one)

    def is_recording(self) -> bool:
        """Return whether the request is in a transaction that will be sent."""
        opened = self._opened()
        return bool(opened) and any(map(self.is_sampled, opened))

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of what is open."""
        opened = self._opened()
        fields = user.to_dict() if opened and user is not None else None
        for one in opened:
            self.name(one, fields)
