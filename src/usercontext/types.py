"""The shapes that users of usercontext supply or receive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import re
    from contextlib import AbstractContextManager
    from types import TracebackType

    from usercontext.user import User

__all__ = [
    "ASGIApp",
    "Environ",
    "Event",
    "GetUser",
    "Message",
    "PrivacyRule",
    "Receive",
    "Reporter",
    "ReportingClient",
    "Resolver",
    "Scope",
    "Send",
    "StartResponse",
    "WSGIApp",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
ExcInfo: TypeAlias = (
    "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"
)


class StartResponse(Protocol):
    """The callable that a WSGI server gives an application (PEP 3333)."""

    def __call__(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
        /,
    ) -> Callable[[bytes], object]:
        """Begin the response; return the legacy `write` callable."""


WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

#: What is taken out of reports, and how: see `usercontext.privacy.Scrubber`.
PrivacyRule: TypeAlias = "str | re.Pattern[str] | tuple[str | re.Pattern[str], ...]"

#: What a resolver may return: a `User`, a mapping, an object that `User.of` takes, or None.
ResolvedUser: TypeAlias = "User | Mapping[str, Any] | object | None"

#: Called with the framework's own request, once per request at most, and only when needed.
Resolver: TypeAlias = Callable[[Any], "ResolvedUser | Awaitable[ResolvedUser]"]

#: A report on its way to a server: the Sentry event payload as plain JSON-able data.
Event: TypeAlias = dict[str, Any]


class GetUser(Protocol):
    """Hands a reporting client the user to report, after privacy had the last word."""

    def __call__(
        self, error: BaseException | None = None, *, resolve: bool = True
    ) -> dict[str, Any] | None:
        """Return a fresh dict of the user, or None; never raise.

        With `error`, the user of the request that this exception passed through. With
        `resolve=False` no resolver is called: a user who is not known yet is None.
        """


class ReportingClient(Protocol):
    """Told, or asks, who makes the current request.

    `usercontext.clients.BaseClient` gives no-ops for all four; whatever a client raises is
    caught, logged once and counted, and harms neither the request nor another client. All but
    `setup` run inside of the request, over ASGI on its event loop: what waits belongs into a
    thread, and a call that takes more than a second is logged once.
    """

    def setup(self, get_user: GetUser, /) -> None:
        """Install the processor, filter or callback that pulls; called once per process."""

    def request_scope(self, get_user: GetUser, /) -> AbstractContextManager[object] | None:
        """Isolate that client for one request or `isolation_scope` and undo it at the end.

        None: nothing to do.
        """

    def is_recording(self) -> bool:
        """Return True if this request will be sent anyway: resolve the user and push it now."""

    def set_user(self, user: User | None, /) -> None:
        """Take the pushed user, replacing every key this client owns; None clears them."""


class Reporter(Protocol):
    """Builds reports and sends or keeps them: the built-in client, or one in its place."""

    def build_exception(
        self, error: BaseException, *, handled: bool = True, level: str = "error"
    ) -> Event | None:
        """Build the report of an exception on the calling thread; None if it is not wanted."""

    def build_message(self, message: str, *, level: str = "info") -> Event | None:
        """Build the report of a message on the calling thread; None if it is not wanted."""

    def send(self, event: Event, *, scrub: Callable[[Event], Event] | None = None) -> str | None:
        """Send a prepared report, `scrub` applied after `before_send`; return its id."""

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until everything submitted is sent or kept; return whether it was in time."""

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop; return whether everything was sent in time."""
