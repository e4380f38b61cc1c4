"""The base of reporting clients: every call a no-op."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from usercontext.types import GetUser
    from usercontext.user import User

__all__ = ["BaseClient"]


class BaseClient:
    """Does nothing with the user; a reporting client overrides what it needs."""

    def setup(self, get_user: GetUser, /) -> None:
        """Install nothing."""

    def check_settings(self, *, includes_ip: bool) -> None:
        """Look for settings of the library that undo ours; called when ours are put together."""

    def request_scope(
        self,
        get_user: GetUser,  # noqa: ARG002
        /,
    ) -> AbstractContextManager[object] | None:
        """Isolate nothing."""
        return None

    def is_recording(self) -> bool:
        """Ask for nothing."""
        return False

    def set_user(self, user: User | None, /) -> None:
        """Take nothing."""
