"""Socket.IO: the user of every event, by who has connected; of python-socketio's servers."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Unpack

from socketio.base_server import BaseServer

from usercontext.calls.base import CallContext
from usercontext.exceptions import ConfigurationError
from usercontext.user import User

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions
    from usercontext.core.record import RequestRecord

__all__ = ["Event", "UserContext"]

_PACKAGES: Final = ("socketio", "engineio")
_MARK: Final = "_usercontext_calls"


@dataclass(frozen=True, slots=True)
class Event:
    """What the resolver of an event is called with.

    Attributes:
        name: the event's name, such as `connect`.
        sid: the client's session id.
        namespace: the namespace, such as `/`.
        environ: what `connect` was given, with the headers of the first request.
        auth: what the client sent when it connected.
    """

    name: str
    sid: str
    namespace: str
    environ: Mapping[str, Any]
    auth: Any


class _Connection:
    """A client that has connected to a namespace, and who it is."""

    __slots__ = ("auth", "environ", "user")

    def __init__(self, environ: Mapping[str, Any], auth: Any) -> None:
        self.environ = environ
        self.auth = auth
        self.user: User | None = None


class UserContext:
    """Give every event of a Socket.IO server a user of its own, and report its unhandled errors.

    `UserContext(server)`, once, for a `socketio.AsyncServer` or a `socketio.Server`, over polling,
    websockets, and from one to the other. Whoever `connect` has found or set is the user of the
    client's events; `set_user()` in another event is of that event alone. An event that nobody
    handles otherwise is reported once.

    Args:
        server: the server.
        remember: keep the user that `set_user()` names in any event for the client's later events.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            server's app, or else from `init()`. The resolver is called with an `Event`.

    Raises:
        ConfigurationError: an option is wrong, or the server has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self, server: Any, *, remember: bool = False, **options: Unpack[ContextOptions]
    ) -> None:
        _check(server)
        self._calls = CallContext(options)
        self._remember = remember
        self._connections: dict[tuple[str, str], _Connection] = {}
        self._trigger = server._trigger_event
        setattr(server, _MARK, self)
        is_async = iscoroutinefunction(self._trigger)
        server._trigger_event = self._serve_async if is_async else self._serve

    def _serve(self, event: str, namespace: str, sid: str, *args: Any) -> Any:
        try:
            with self._running(event, namespace, sid, args) as running:
                try:
                    return self._trigger(event, namespace, sid, *args)
                finally:
                    self._keep(event, namespace, sid, running.record)
        finally:
            self._forget(event, namespace, sid)

    async def _serve_async(self, event: str, namespace: str, sid: str, *args: Any) -> Any:
        try:
            async with self._running(event, namespace, sid, args) as running:
                try:
                    return await self._trigger(event, namespace, sid, *args)
                finally:
                    self._keep(event, namespace, sid, running.record)
        finally:
            self._forget(event, namespace, sid)

    def _running(self, event: str, namespace: str, sid: str, args: tuple[Any, ...]) -> RunningCall:
        if event == "connect":
            auth = args[1] if len(args) > 1 else None
            self._connections[sid, namespace] = _Connection(args[0], auth)
        connection = self._connections.get((sid, namespace)) or _Connection({}, None)
        environ = connection.environ
        told = Event(event, sid, namespace, environ, connection.auth)
        source = environ.get("asgi.scope") or environ
        call = {"type": "socketio", "name": event}
        running = self._calls.running(source, told, call, packages=_PACKAGES, is_error=_is_error)
        if connection.user is not None:
            running.record.claim(connection.user)
        return running

    def _keep(self, event: str, namespace: str, sid: str, record: RequestRecord) -> None:
        """Keep who has connected: by polling each event comes with a request of its own."""
        connection = self._connections.get((sid, namespace))
        is_kept = event == "connect" or (self._remember and record.is_explicit)
        if connection is not None and is_kept and isinstance(record.user, User):
            connection.user = record.user

    def _forget(self, event: str, namespace: str, sid: str) -> None:
        if event == "disconnect":
            self._connections.pop((sid, namespace), None)


def _is_error(error: BaseException) -> bool:
    """Leave out by which a client is refused."""
    return isinstance(error, Exception) and not isinstance(error, ConnectionRefusedError)


def _check(server: object) -> None:
    if not isinstance(server, BaseServer):
        raise ConfigurationError(
            f"UserContext takes a server of python-socketio, not {type(server).__name__}: write "
            'UserContext(server), where server = socketio.AsyncServer(async_mode="asgi")'
        )
    if hasattr(server, _MARK):
        raise ConfigurationError(
            "this server has a UserContext already: keep one, and give it all options"
        )
