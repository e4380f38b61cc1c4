"""What every way to a server has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Connection", "NetworkError"]


class NetworkError(Exception):
    """Raised when no answer was had for a reason of the network."""


class Connection(Protocol):
    """Posts to one server."""

    def exchange(self, body: bytes, encoding: str | None) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers, or raise NetworkError."""

    def close(self) -> None:
        """Close what is open."""

    def after_fork_in_child(self) -> None:
        """Leave the parent's connection to it."""
