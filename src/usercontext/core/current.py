"""The current request's user: setting it, asking for it, carrying it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from usercontext.core import capture, context, resolution
from usercontext.core.lifecycle import begin, end_now
from usercontext.core.passage import attach, of_error
from usercontext.core.record import (
    KEY,
    NOT_YET,
    OWN_KEY,
    UNKNOWN,
    BlockRecord,
    LeftRecord,
    RequestRecord,
    ScopeRecord,
    current,
    enter,
    leave,
    pass_over,
)
from usercontext.core.settings import Settings, default
from usercontext.diagnostics import warn_once
from usercontext.exceptions import InvalidUserError
from usercontext.source import is_environ
from usercontext.user import User, is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Token
    from types import TracebackType

    from usercontext.address.client import ClientAddress
    from usercontext.core.clients import ClientScopes
    from usercontext.types import Resolver

__all__ = [
    "bind",
    "get_client_address",
    "get_user",
    "isolation_scope",
    "message_scope",
    "resolve_again",
    "resolve_user",
    "set_reporting",
    "set_request_data",
    "set_user",
    "update_user",
    "use_user",
]

P = ParamSpec("P")
T = TypeVar("T")


def set_user(user: object) -> None:
    """Say who the user of the current request is; it replaces any other user whole.

    Seen by every task and thread of this request, and by none of another. Outside a request it
    changes nothing and warns once: scripts and jobs take `isolation_scope`.

    Args:
        user: anything that `User.of` takes. None means explicitly nobody, and the resolver is
            not asked again. A bad value is logged once and means nobody too.
    """
    record = current()
    if record is None:
        _warn_outside("set_user")
        return
    # The id first, past its property: nearly every user has one, and this is asked often.
    if type(user) is not User or (user._values[0] is None and user.identity is None):
        user = resolution.as_user(user, "set_user()", record.settings)
    record.user = user
    # Nearly always nobody else writes here, and the lock would be felt. A resolver that answers at
    # this moment holds it: then it has called before, or its answer stands here already.
    if (
        record.resolution is not None
        or record.user is not user
        or record.state is not None
        or record.ended is not None
        or record.settings.clients
    ):
        _claim(record, user)


def _claim(record: RequestRecord, user: User | None) -> None:
    record.claim(user)
    context.became_known(record)


def _warn_outside(call: str) -> None:
    warn_once(
        f"{call} outside a scope",
        "%s() was called outside a request and changes nothing: add the middleware, or write "
        "`with usercontext.isolation_scope():` around a script or job",
        call,
    )


def update_user(**fields: Any) -> None:
    """Change fields of the current user, which makes it an explicit one.

    A sync resolver is asked first; an async one must have been awaited, else this logs once and
    changes nothing. A changed `id` is another person: nothing unnamed is kept. Without a user
    the fields stand alone. The collected address is never baked in.

    Args:
        fields: as `User(...)` takes them; None removes one.
    """
    record = current()
    if record is None:
        _warn_outside("update_user")
        return
    user = context.ask(record) if record.ended is None else record.known()
    if record.user is UNKNOWN and record.settings.resolver is not None and record.ended is None:
        _warn_unknown(record)
        return
    try:
        changed = _changed(None if user is UNKNOWN else user, fields)
    except InvalidUserError as error:
        warn_once("update_user", "update_user() changes nothing: %s", error)
        return
    if changed.identity is None:
        warn_once(
            "update_user: no identity",
            "update_user() changes nothing: the result has neither id, username, email nor "
            "ip_address",
        )
        return
    _claim(record, changed)


def _warn_unknown(record: RequestRecord) -> None:
    """Say what to do before `update_user`, where it is not known yet who the user is."""
    settings = record.settings
    if settings.awaits or settings.async_resolver is not None:
        warn_once(
            "update_user before resolve_user",
            "update_user() changes nothing before %s has been awaited: write "
            "`await usercontext.resolve_user()` first",
            settings.resolver_name,
        )
        return
    warn_once(
        "update_user before authentication",
        "update_user() changes nothing before %s knows who the user is: call it after "
        "authentication, or say with set_user() who it is",
        settings.resolver_name,
    )


def _changed(user: User | None, fields: dict[str, Any]) -> User:
    if user is None:
        return User(**fields)
    changed = user.with_fields(**fields)
    if user.id is not None and changed.id is not None and changed.id != user.id:
        return User(**fields)
    return changed


def get_user(
    *, resolve: bool = True, request: object = None, error: BaseException | None = None
) -> User | None:
    """Return the current user with its address, or None.

    With `RequestData(include_ip=True)` a request without a user has an address-only one.

    Args:
        resolve: ask a sync resolver if need be. False only peeks: it never calls a resolver,
            and is None until the user is known.
        request: find the user of this request instead: a scope or environ, an object with
            `.scope`, `.environ` or `.META`, or a request of aiohttp, Sanic or Tornado.
        error: find the user of the request that this exception passed through instead.
    """
    if request is not None:
        record = _record_of_request(request)
    elif error is not None:
        record = of_error(error)[1]
    else:
        record = current()
    return None if record is None else context.user_of(record, resolve=resolve)


def _record_of_request(request: object) -> RequestRecord | None:
    for source in _sources_of(request):
        if issubclass(type(source), dict):
            for key in (KEY, OWN_KEY):
                found = dict.get(source, key)
                if isinstance(found, RequestRecord):
                    return found
    return None


def _sources_of(request: object) -> Iterator[Any]:
    for source in (request, *(_part_of(request, name) for name in _SOURCES)):
        yield source
        yield _part_of(source, "__dict__")


def _part_of(request: object, name: str) -> Any:
    try:
        return getattr(request, name, None)
    except Exception:  # noqa: BLE001
        # Sanic's `scope` raises unless an ASGI server runs it, Flask's `request` outside of one.
        return None


# On the requests of aiohttp and Tornado the record is an attribute, on Sanic's one of their `ctx`.
_SOURCES = ("ctx", "scope", "environ", "META")


async def resolve_user() -> User | None:
    """Return the current user with its address, awaiting an async resolver.

    Tasks that await it together get the same result of one call. A resolver that has not
    answered within `resolver_timeout` means nobody.
    """
    record = current()
    if record is None:
        return None
    await context.resolve_within(record)
    return context.user_of(record)


def resolve_again() -> None:
    """Forget what the resolver has answered for the current request, so that it is asked again.

    For a login, a logout or a switch of users in the middle of a request, where the resolver is
    the app's own: the ready ones follow their framework by themselves. A user that the app has
    set itself stays. Outside a request, and after its end, this changes nothing.
    """
    record = current()
    if record is None or record.ended is not None or record.is_explicit:
        return
    record.ask_again()
    context.became_known(record)


@overload
def get_client_address() -> ClientAddress | None: ...
@overload
def get_client_address(request: object) -> ClientAddress: ...
def get_client_address(request: object = None) -> ClientAddress | None:
    """Return how a request's client address was found, for logs, limits and support.

    What it says is what would be reported if `include_ip` were on: anonymised, with the source,
    the hops and the reason. Without a request it is the current one's, None outside of requests.

    Args:
        request: another one, as `get_user` takes it, also outside of the middleware: there what
            `init()` was given applies.
    """
    record = current() if request is None else _record_of_request(request)
    options = (default() if record is None else record.settings).request_data
    source = None if record is None else record.root.source
    if request is None:
        return None if source is None else options.locate(source)
    return options.locate(source or _source_of(request) or {})


def _source_of(request: object) -> Mapping[str, Any] | None:
    """Return the scope or environ of a request that no middleware of ours has seen, or sees."""
    for part in (*(_part_of(request, name) for name in ("scope", "environ", "META")), request):
        if isinstance(part, Mapping) and (is_environ(part) or "headers" in part):
            return part
    return None


def set_request_data(value: object) -> None:
    """Hand over the parsed body of the current request, which `include_data=True` reports."""
    record = current()
    if record is None:
        _warn_outside("set_request_data")
        return
    root = record.root
    if root.ended is None:
        root.make_state().data = value


def set_reporting(enabled: bool) -> None:
    """Withhold the current request's user from every reporting client, or stop doing so.

    For consent: reports still go out, without a user and without an address. The app itself
    still sees the user with `get_user()`.
    """
    record = current()
    if record is None:
        _warn_outside("set_reporting")
        return
    record.root.make_state().withheld = not enabled
    if record.root.user is not UNKNOWN:
        context.became_known(record.root)


class _Entry:
    """One time that a block is entered: what it takes to leave it."""

    __slots__ = ("record", "scopes", "token")

    def __init__(self, record: BlockRecord | ScopeRecord) -> None:
        self.record: BlockRecord | ScopeRecord = record
        self.token: Token[RequestRecord | None] = enter(record)
        self.scopes: ClientScopes | None = None
        # A `use_user` block inside a request shares the request's scopes of the clients.
        if record.settings.clients and record.root is record:
            self.scopes = begin(record)
            if record.user is not UNKNOWN:
                context.became_known(record)


class _Block:
    """A `with` block with a record of its own.

    One object may be kept, shared by tasks and threads, and entered again inside of itself: what
    belongs to one time stands in its entry.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def _begin(self, record: BlockRecord | ScopeRecord) -> None:
        self._entries.append(_Entry(record))

    def _take_entry(self) -> _Entry:
        """Return the entry that ends here: the one whose record is current, else the last."""
        here, entries = _meant_here(), self._entries
        for entry in reversed(entries):
            if entry.record is here:
                entries.remove(entry)
                return entry
        return entries.pop()

    def _report(self, error: Exception) -> None:
        """Do nothing: an error that leaves a block stays inside of its request."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry = self._take_entry()
        record = entry.record
        try:
            if isinstance(error, Exception):
                context.ask(record)
                attach(error, record)
                self._report(error)
            elif entry.scopes is not None and record.user is UNKNOWN:
                _push_at_end(record)
        finally:
            end_now(record, entry.scopes)
            if _meant_here() is not record or not leave(entry.token):
                _end_elsewhere(record)


def _meant_here() -> RequestRecord | None:
    """Return the current record, past records of blocks that have been left elsewhere."""
    record = current()
    while type(record) is LeftRecord:
        record = record.outer
    return record


def _end_elsewhere(record: BlockRecord | ScopeRecord) -> None:
    """End a block that is left in another context, or order, than it was entered in."""
    pass_over(record)
    warn_once(
        "block left elsewhere",
        "a use_user() or isolation_scope() block was left in another task or order than it was "
        "entered in, as by an async generator that is not closed: its user is not named any more; "
        "write `async with contextlib.aclosing(generator):` around what reads it",
    )


def _push_at_end(record: RequestRecord) -> None:
    """Hand clients that send this block anyway its user: there is no response to do it at."""
    if context.needs_push(record):
        context.ask(record)


class use_user(_Block):  # noqa: N801 - it reads as the verb it is: `with use_user(user):`
    """Make someone else the user, for a block and what it starts only.

    For impersonation, or one of many tasks in one request; `set_user` inside the block changes
    the block's user. The request's own user is back at its end; an error that leaves the block
    is reported with the block's user. The object may be kept, shared and nested.

    Args:
        user: anything that `User.of` takes; None for nobody.
        impersonator: who acts as that user: an id, or anything that `User.of` takes. Its id is
            reported as the extra value `impersonator`.
    """

    __slots__ = ("_user",)

    def __init__(self, user: object, *, impersonator: object = None) -> None:
        super().__init__()
        outer = current()
        settings = default() if outer is None else outer.settings
        self._user = resolution.as_user(user, "use_user()", settings)
        if self._user is not None and impersonator is not None:
            self._user = _impersonated(self._user, impersonator, settings)

    def __enter__(self) -> None:
        outer = current()
        record = ScopeRecord.within(None, default()) if outer is None else BlockRecord.within(outer)
        record.claim(self._user)
        self._begin(record)


class message_scope(_Block):  # noqa: N801
    """Give one message of a long connection a user of its own: on a websocket, or of a stream.

    `with message_scope(user=who_sent(message)):` around what handles a message. `set_user` inside
    names this message's user alone; without one it is the connection's, whoever was named in an
    earlier message. Messages that tasks of one connection handle at the same time are apart. An
    error that leaves the block is reported with the message's user, and with what belongs to the
    connection: its URL, headers and address.

    Args:
        user: who sent the message; anything that `User.of` takes. None for nobody; left out for
            the connection's user.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_user",)

    def __init__(self, user: object = NOT_YET) -> None:
        super().__init__()
        self._user = user

    def __enter__(self) -> None:
        outer = current()
        record = ScopeRecord.within(None, default()) if outer is None else BlockRecord.within(outer)
        if self._user is not UNKNOWN:
            record.claim(resolution.as_user(self._user, "message_scope()", record.settings))
        elif outer is not None:
            _ask_connection(outer, record)
        self._begin(record)


def _ask_connection(outer: RequestRecord, record: RequestRecord) -> None:
    """Find the connection's user for a message; an async resolver is left to be awaited there."""
    context.ask(outer)
    root = outer.root
    record.source = root.source
    if root.state is not None and root.state.request is not None:
        record.make_state().request = root.state.request
    record.user = outer.known()
    record.resolution = None if record.user is UNKNOWN else outer.resolution


def _impersonated(user: User, impersonator: object, settings: Settings) -> User:
    """Return the user with the id of who acts as them."""
    given = {"id": impersonator} if is_identifier(impersonator) else impersonator
    actor = resolution.as_user(given, "use_user(impersonator=...)", settings)
    return user if actor is None else user.with_fields(impersonator=actor.id or actor.identity)


class isolation_scope(_Block):  # noqa: N801
    """Open a blank scope of its own: for scripts, jobs and tests, also inside a request.

    There it has nothing of the request, but is reported by the same options: its clients and
    scrub rules, the middleware's included. The object may be kept, shared and nested.

    Args:
        user: its user from the start; anything that `User.of` takes.
        resolver: called with None when the user is first needed.

    Raises:
        ConfigurationError: the resolver is not a function.
    """

    __slots__ = ("_settings", "_user")

    def __init__(self, user: object = None, resolver: Resolver | None = None) -> None:
        super().__init__()
        self._settings = Settings(resolver=resolver)
        self._user = user

    def __enter__(self) -> None:
        here = current()
        # Blank of users alone: what a middleware's rules keep private stays so inside its request.
        base = default() if here is None else here.settings
        record = ScopeRecord.within(here, self._settings.without_resolver_of(base))
        if self._user is not None:
            record.claim(resolution.as_user(self._user, "isolation_scope()", record.settings))
        self._begin(record)

    def _report(self, error: Exception) -> None:
        if capture.reports_unhandled:
            capture.report_crash(error, of_error(error)[1])


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with the current scope carried into wherever it is called.

    For plain threads, executors and `gevent.spawn`, which carry nothing by themselves. A sync
    resolver is asked first. The record travels, not a `Context`: that cannot be entered twice.
    """
    record = current()
    if record is None:
        return function
    context.ask(record)
    return _bound(function, record)


def _bound(function: Callable[P, T], record: RequestRecord) -> Callable[P, T]:
    from usercontext.core.bound import bound  # only an app with threads of its own needs it

    return bound(function, record)
