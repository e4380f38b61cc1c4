"""What every way to a server has in common, and in which words a failure of it is told."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Connection", "NetworkError", "ProxyError", "reason_of"]

_MAX_CAUSES = 10


class NetworkError(Exception):
    """Raised when no answer was had for a reason of the network.

    Attributes:
        reason: in a few words, which hold nothing of a report.
    """

    def __init__(self, reason: str = "no answer") -> None:
        super().__init__(reason)
        self.reason: str = reason


class ProxyError(OSError):
    """Raised when a proxy cannot be reached, or does not do what it is asked for."""


class Connection(Protocol):
    """Posts to one server."""

    def exchange(self, body: bytes, encoding: str | None) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers, or raise NetworkError."""

    def close(self) -> None:
        """Close what is open."""

    def after_fork_in_child(self) -> None:
        """Leave the parent's connection to it."""


def reason_of(error: BaseException) -> str:
    """Return why there was no answer: the first cause, of several, that says it."""
    causes = list(_causes(error))
    for told in (_of_proxy, _of_certificate, _of_system):
        for cause in causes:
            reason = told(cause)
            if reason:
                return reason
    return "the answer is not one of HTTP"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _of_proxy(error: BaseException) -> str | None:
    # httpx, httpx2 and httpcore have one of that name each, all of whose texts are the proxy's.
    return str(error) if type(error).__name__ == "ProxyError" else None


def _of_certificate(error: Any) -> str | None:
    if getattr(error, "verify_message", None):
        return (
            f"the certificate is not trusted: {error.verify_message} (ca_certs= names the file "
            "of an authority of your own)"
        )
    if type(error).__module__ == "ssl" and getattr(error, "reason", None):
        return f"TLS failed: {str(error.reason).replace('_', ' ').lower()}"
    return None


def _of_system(error: BaseException) -> str | None:
    if isinstance(error, socket.gaierror):
        return f"the name is not known ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        return "there was no answer in time"
    if isinstance(error, ConnectionError) or type(error).__name__ == "RemoteProtocolError":
        return "the connection was closed without an answer"
    return error.strerror if isinstance(error, OSError) else None
