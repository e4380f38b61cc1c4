"""Calling reporting clients: what one of them does wrong harms no request and no other client."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from usercontext.core.record import enter, leave
from usercontext.diagnostics import failure, warn_once
from usercontext.exceptions import InvalidUserError
from usercontext.user import User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser, ReportingClient

__all__ = [
    "ClientScopes",
    "call",
    "check_settings",
    "forget",
    "is_recording",
    "look_again",
    "push",
    "set_up",
]

P = ParamSpec("P")
T = TypeVar("T")

_SLOW_SECONDS: Final = 1.0
_SLOW: Final = (
    "reporting client %s took more than a second in %s(), which runs inside of the request: "
    "what waits belongs into a thread of its own"
)
# These run when the app is put together.
_MAY_TAKE_TIME: Final = frozenset({"setup", "look_again", "check_settings"})


def call(
    client: ReportingClient,
    name: str,
    method: Callable[P, T],
    /,
    *args: P.args,
    **options: P.kwargs,
) -> T | None:
    """Call a method of a client; None where it fails.

    That it fails, or makes the request wait, is said once.

    Args:
        client: whose method it is.
        name: what the client's author knows it by.
        method: what is called.
        args: its arguments.
        options: its keyword arguments.
    """
    begin = monotonic()
    try:
        return method(*args, **options)
    except Exception as error:  # noqa: BLE001 - a client of others may raise anything
        kind = type(client).__qualname__
        message = "reporting client %s failed in %s()"
        failure(f"{kind}.{name}", message, kind, name, error=error)
        return None
    finally:
        if monotonic() - begin >= _SLOW_SECONDS and name not in _MAY_TAKE_TIME:
            kind = type(client).__qualname__
            warn_once(f"{kind}.{name}: slow", _SLOW, kind, name)


class ClientScopes:
    """The scopes that clients have opened for one request.

    Args:
        clients: those that open one.
        get_user: what each is given to pull the request's user by.
    """

    __slots__ = ("_open",)

    def __init__(self, clients: Iterable[ReportingClient], get_user: GetUser) -> None:
        self._open: list[tuple[ReportingClient, Any]] = []
        for client in clients:
            scope = call(client, "request_scope", _entered, client, get_user)
            if scope is not None:
                self._open.append((client, scope))

    def close(self) -> None:
        """Close them, the last one first, each of them once."""
        if not self._open:
            return
        client, scope = self._open.pop()
        try:
            call(client, "request_scope", scope.__exit__, None, None, None)
        finally:
            # A timeout of gevent passes, and the others are closed all the same.
            self.close()


def _entered(client: ReportingClient, get_user: GetUser) -> Any:
    scope = client.request_scope(get_user)
    if scope is not None:
        scope.__enter__()
    return scope


_set_up: list[ReportingClient] = []


def set_up(client: ReportingClient, get_user: GetUser) -> None:
    """Set a client up, once in this process."""
    if not any(one is client for one in _set_up):
        _set_up.append(client)
        call(client, "setup", client.setup, get_user)


def look_again(clients: Iterable[ReportingClient] | None = None) -> None:
    """Have clients look for what they hook into, which may have been configured since.

    Args:
        clients: which; by default all that were set up.
    """
    for client in tuple(_set_up if clients is None else clients):
        look = getattr(client, "look_again", None)
        if look is not None:
            call(client, "look_again", look)


def forget(client: ReportingClient | None = None) -> None:
    """Let one reporting client be set up again; by default every one."""
    _set_up[:] = [] if client is None else [one for one in _set_up if one is not client]


def check_settings(clients: Iterable[ReportingClient], *, includes_ip: bool) -> None:
    """Let the clients that can look for settings of theirs that undo these options."""
    for client in clients:
        check = getattr(client, "check_settings", None)
        if check is not None:
            call(client, "check_settings", check, includes_ip=includes_ip)


def is_recording(client: ReportingClient) -> bool:
    """Return whether a client will send the current request anyway."""
    return bool(call(client, "is_recording", client.is_recording))


def push(
    record: RequestRecord, clients: Iterable[ReportingClient], fields: dict[str, Any] | None
) -> None:
    """Hand clients the user of a request, as it may leave."""
    user = None if fields is None else _user_of_scrubbed(fields)
    # `get_user(request=...)` may have been asked from inside another request.
    token = enter(record)
    try:
        for client in clients:
            call(client, "set_user", client.set_user, user)
    finally:
        leave(token)


def _user_of_scrubbed(fields: dict[str, Any]) -> User | None:
    try:
        return User(**fields)
    except InvalidUserError:
        # A masked or replaced address is not an address any more.
        fields.pop("ip_address", None)
    try:
        return User(**fields)
    except InvalidUserError:
        return None
