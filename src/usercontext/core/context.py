"""The configured pipeline: from a request's record to the user that is reported.

Clients and frameworks are handed in; nothing here imports one.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core import record as records
from usercontext.core import resolution
from usercontext.core.clients import ClientScopes, call
from usercontext.core.options import REPORTER_METHODS, ContextOptions, check_methods, checked
from usercontext.core.passage import of_error
from usercontext.core.record import UNKNOWN, RequestRecord
from usercontext.diagnostics import failure, harmless
from usercontext.exceptions import InvalidUserError
from usercontext.privacy import Scrubber
from usercontext.request import RequestData
from usercontext.user import AUTO_ADDRESS, User

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from usercontext.carried import CarriedIdentity
    from usercontext.core.ignored import IgnoredErrors
    from usercontext.types import Event, Reporter, ReportingClient, Resolver

__all__ = ["Context", "default", "forget_clients", "make_default", "pull_user"]

_NO_ADDRESS = RequestData()
_FINDING_A_USER = ("make_request", "resolve", "resolver", "resolver_thread")


class Context:
    """What applies to a request: who resolves its user, what is reported, and to whom.

    Middlewares, `isolation_scope` and `init()` each make one of the options they are given;
    what one leaves out comes from the process-wide default.

    Args:
        client: what takes the reports, on the default alone: the built-in client or another.
        make_request: makes the framework's request of a scope or environ, for the resolver.
        options: see `ContextOptions`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(
        self,
        *,
        client: Reporter | None = None,
        make_request: Callable[[Any], object] | None = None,
        **options: Unpack[ContextOptions],
    ) -> None:
        given = checked(options)
        scrubber = Scrubber(
            given.pop("scrub", ()),
            hash_key=given.pop("hash_key", None),
            never_store_ip=given.pop("never_store_ip", False),
        )
        if client is not None:
            check_methods("client", client, REPORTER_METHODS, "a SentryClient")
            given["client"] = client
        if make_request is not None:
            given["make_request"] = make_request
        self._apply(given, scrubber)
        for one in self.clients:
            _set_up(one)

    def _apply(self, options: Mapping[str, Any], scrubber: Scrubber) -> None:
        self._options: dict[str, Any] = dict(options)
        self._joined: tuple[Context, Context] | None = None
        self.resolver: Resolver | None = options.get("resolver")
        self.request_data: RequestData = options.get("request_data", _NO_ADDRESS)
        self.clients: tuple[ReportingClient, ...] = options.get("clients", ())
        self.eager: bool = options.get("resolve") == "eager"
        self.resolver_timeout: float = options.get("resolver_timeout", 1.0)
        self.detached_ttl: float | None = options.get("detached_ttl", 300.0)
        self.carried: CarriedIdentity | None = options.get("carried")
        self.ignored: IgnoredErrors | None = options.get("ignore_errors")
        self.client: Reporter | None = options.get("client")
        self.make_request: Callable[[Any], object] | None = options.get("make_request")
        self.scrubber: Scrubber = scrubber
        self.includes_ip: bool = self.request_data.include_ip and not scrubber.never_store_ip
        self.resolver_name: str = f"resolver {_name_of(self.resolver)}"
        self.is_async: bool = self.resolver is not None and _is_async(self.resolver)
        self.awaits: bool = self.is_async or bool(options.get("resolver_thread"))
        self.async_resolver: Callable[[Any], Awaitable[object]] | None = _async_resolver(
            self.resolver
        )
        self.isolating: tuple[ReportingClient, ...] = _overriding(self.clients, "request_scope")
        self.recording: tuple[ReportingClient, ...] = _overriding(self.clients, "is_recording")
        self.is_plain: bool = not (self.isolating or self.recording or self.eager)

    def merged_under(self, base: Context) -> Context:
        """Return these options with those of `base` where they were left out.

        Scrub rules add up, and a resolver stays with the kind of request it was written for.
        """
        options = {**base._options, **self._options}
        if "resolver" not in self._options and "make_request" in base._options:
            options["make_request"] = base._options["make_request"]
        joined = object.__new__(Context)
        joined._apply(options, base.scrubber.merged(self.scrubber))
        return joined

    def without_resolver_of(self, base: Context) -> Context:
        """Return these options over those of `base`, but for its ways to find a user."""
        options = {
            name: value for name, value in base._options.items() if name not in _FINDING_A_USER
        }
        joined = object.__new__(Context)
        joined._apply({**options, **self._options}, base.scrubber.merged(self.scrubber))
        return joined

    def _over_once(self, outer: Context) -> Context:
        # Nearly always it is the same outer middleware, at every request.
        joined = self._joined
        if joined is None or joined[0] is not outer:
            joined = self._joined = (outer, self.merged_under(outer))
        return joined[1]

    def conflicts_with(self, outer: Context) -> list[str]:
        """Name the options given both here and to an outer middleware, and not the same.

        What that one has of `init()` is there to be overruled.
        """
        ours, theirs = self._options, outer._options
        both = ours.keys() & theirs.keys() - {"make_request"}
        common = process_default._options
        return sorted(
            name
            for name in both
            if theirs[name] != ours[name] and theirs[name] is not common.get(name)
        )

    def check_clients(self) -> None:
        """Let the clients that can look for settings of theirs that undo these options."""
        for client in self.clients:
            check = getattr(client, "check_settings", None)
            if check is not None:
                call(client, "check_settings", check, includes_ip=self.includes_ip)

    def request_of(self, record: RequestRecord) -> object:
        """Return the framework's own request for the resolver; None outside a request."""
        if record.state is not None and record.state.request is not None:
            return record.state.request
        if record.source is None or self.make_request is None:
            return None
        return self.make_request(record.source)

    def join(self, record: RequestRecord, source: Mapping[str, Any]) -> None:
        """Let these options apply from here on, inside a request that has its record already.

        That is how a mounted app with its own authentication names its own users; an explicit
        user stays, and the same middleware met twice changes nothing.
        """
        outer = record.context
        record.context = self._over_once(outer)
        if record.state is not None:
            record.state.address = UNKNOWN
        if "resolver" not in self._options or self.resolver is outer.resolver:
            return
        record.source = source
        record.ask_again()

    # --- the user -------------------------------------------------------------------------

    def collected_address(self, record: RequestRecord) -> str | None:
        """Return the client's address if it may be reported, found once per request."""
        if not self.includes_ip:
            return None
        state = record.state
        if state is None or state.address is UNKNOWN:
            record = record.root
            state = record.state or record.make_state()
            if state.address is UNKNOWN:
                state.address = self._find_address(record.source)
        return state.address

    def _find_address(self, source: Mapping[str, Any] | None) -> str | None:
        if source is None:
            return None
        try:
            return self.request_data.ip_address(source)
        except Exception:  # noqa: BLE001 - `with harmless(...)` would be felt here
            failure("client address", "the client's address could not be found")
            return None

    def user_of(self, record: RequestRecord, *, resolve: bool = True) -> User | None:
        """Return the user of a record with its address; peek only, unless `resolve`."""
        user = record.user if record.ended is None else record.known()
        if user is UNKNOWN:
            if self.resolver is None:
                user = None
            elif resolve:
                user = resolution.ask(record)
            else:
                return None
        if not self.includes_ip or (user is not None and user._values[3] is not None):
            return user
        address = self.collected_address(record)
        if address is None:
            return user
        return User(ip_address=address) if user is None else user._with_address(address)

    def _reported_user(self, record: RequestRecord) -> dict[str, Any] | None:
        """Return the user for the built-in client: `{{auto}}` is kept, scrubbing comes last."""
        if _is_withheld(record):
            return None
        user = self.user_of(record)
        return None if user is None else user.to_dict()

    def outgoing(self, record: RequestRecord, *, resolve: bool = True) -> dict[str, Any] | None:
        """Return the user for a reporting client of others: a fresh dict, scrubbed."""
        if _is_withheld(record):
            return None
        user = self.user_of(record, resolve=resolve)
        if user is None:
            return None
        fields: dict[str, Any] | None = user.to_dict()
        if user.ip_address == AUTO_ADDRESS:
            # Only the Sentry protocol knows what that means.
            fields = self._without_auto(record, user)
        if fields and self.scrubber:
            fields = self.scrubber.user(fields)
        return fields or None

    def _without_auto(self, record: RequestRecord, user: User) -> dict[str, Any]:
        fields = user.to_dict()
        address = self.collected_address(record)
        if address is None:
            del fields["ip_address"]
        else:
            fields["ip_address"] = address
        return fields

    # --- reporting clients ----------------------------------------------------------------

    def became_known(self, record: RequestRecord) -> None:
        """Hand on a user that has just become known, or has changed."""
        if self.clients and record.root is record and record.ended is None:
            self._push(record, self.clients)
        if record.state is not None and record.state.pending:
            self.complete_pending(record)

    def _push(
        self,
        record: RequestRecord,
        clients: tuple[ReportingClient, ...],
        *,
        resolve: bool = False,
    ) -> None:
        fields = self.outgoing(record, resolve=resolve)
        user = None if fields is None else _user_of_scrubbed(fields)
        # `get_user(request=...)` may have been asked from inside another request.
        token = records.enter(record)
        try:
            for client in clients:
                call(client, "set_user", client.set_user, user)
        finally:
            records.leave(token)

    def needs_push(self) -> bool:
        """Return whether a client will send this request anyway, and so wants its user now."""
        return any(map(_is_recording, self.recording))

    def push_unresolved(self, record: RequestRecord) -> None:
        """Push what is known of a request that nobody resolves: its address, or nobody.

        A resolver that has left the question open is asked again: a peek would show no address.
        """
        if record.user is UNKNOWN:
            self._push(record, self.clients, resolve=True)

    def push_again(self, record: RequestRecord) -> None:
        """Push a user who was known before to what may have begun since then.

        A trace begins inside of us where its middleware is, and authentication may come before.
        """
        self._push(record, tuple(filter(_is_recording, self.recording)))

    def isolate_clients(self, record: RequestRecord) -> ClientScopes:
        """Open the request scopes of all clients, which the caller closes."""

        def get_user(
            error: BaseException | None = None, *, resolve: bool = True
        ) -> dict[str, Any] | None:
            with harmless("pull", "the user of a report could not be found"):
                # A `use_user` block or an `isolation_scope` inside the request speaks for itself.
                return _pull(_reporting_record(error) or record, resolve=resolve)
            return None

        return ClientScopes(self.isolating, get_user)

    # --- reports of our own ---------------------------------------------------------------

    def describe(self, record: RequestRecord, event: Event) -> None:
        """Put what may be reported of the request into an event."""
        root = record.root
        if root.source is None:
            return
        from usercontext.request import description  # only a request that is reported needs it

        data = None if root.state is None else root.state.data
        include_ip = self.includes_ip and not _is_withheld(record)
        request = description.collect(
            self.request_data, root.source, data=data, include_ip=include_ip
        )
        if request:
            event["request"] = request
        self._explain(record, event, data)

    def _explain(self, record: RequestRecord, event: Event, data: object) -> None:
        """Tell in an event how the address was found, and what of the request was kept back."""
        from usercontext.request import description

        told = description.explain(self.request_data, record.root.source or {}, data=data)
        withheld = told.setdefault("withheld", [])
        if self.scrubber.never_store_ip:
            withheld.append({"what": "every address", "rule": "never_store_ip=True"})
        if _is_withheld(record):
            withheld.append({"what": "user and address", "rule": "set_reporting(False)"})
        told["address"]["included"] = self.includes_ip and not _is_withheld(record)
        event.setdefault("contexts", {}).setdefault("usercontext", {}).update(told)

    def report(self, record: RequestRecord, event: Event, client: Reporter) -> str | None:
        """Send an event with the user of its record, or hold it until the user is known."""
        user = self._reported_user(record)
        if self._is_awaited(record):
            state = record.root.make_state()
            if state.pending is None:
                state.pending = []
            state.pending.append(event)
            return str(event["event_id"])
        return self._send(event, user, client)

    def _send(self, event: Event, user: dict[str, Any] | None, client: Reporter) -> str | None:
        if user is not None:
            event["user"] = user
        return client.send(event, scrub=self.scrub)

    @property
    def scrub(self) -> Callable[[Event], Event] | None:
        """The scrubbing that every event of ours passes last, after `before_send`."""
        return self.scrubber.report if self.scrubber else None

    def _is_awaited(self, record: RequestRecord) -> bool:
        """Whether an async resolver may still name the user of this open request."""
        return (
            (self.awaits or self.async_resolver is not None)
            and record.user is UNKNOWN
            and record.ended is None
            and self.resolver is not None
            and not resolution.is_inside(record)
        )

    def complete_pending(self, record: RequestRecord) -> None:
        """Send the reports that waited for the user, with what is known by now."""
        if record.state is None or record.state.pending is None:
            return
        pending, client = record.state.pending, process_default.client
        # One by one, and each of them once: another thread may be completing them as well.
        while pending:
            try:
                event = pending.pop(0)
            except IndexError:
                return
            if client is None:
                continue
            with harmless("built-in client", "a report could not be completed with its user"):
                self._send(event, self._reported_user(record), client)


def _is_withheld(record: RequestRecord) -> bool:
    state = record.root.state
    return state is not None and state.withheld


def _user_of_scrubbed(fields: dict[str, Any]) -> User | None:
    try:
        return User(**fields)
    except InvalidUserError:
        # A masked or replaced address is no address any more.
        fields.pop("ip_address", None)
    try:
        return User(**fields)
    except InvalidUserError:
        return None


def _is_async(function: Callable[..., object]) -> bool:
    from inspect import iscoroutinefunction

    inner = function
    while hasattr(inner, "func"):
        inner = inner.func
    return iscoroutinefunction(inner) or iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _async_resolver(resolver: object) -> Callable[[Any], Awaitable[object]] | None:
    """Return what a ready resolver of ours has for tasks that can await a better answer."""
    form: Any = getattr(resolver, "async_resolver", None)
    return form if form is not None and _is_async(form) else None


def _name_of(function: object) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def _overriding(clients: tuple[ReportingClient, ...], name: str) -> tuple[ReportingClient, ...]:
    """Return the clients whose method does more than that of the base class."""
    methods = [(client, getattr(type(client), name, None)) for client in clients]
    base = "usercontext.clients.base"
    return tuple(client for client, method in methods if getattr(method, "__module__", "") != base)


# --- the process-wide default -------------------------------------------------------------------

process_default: Context = Context()
_clients_set_up: list[ReportingClient] = []


class OverDefault:
    """The options of a middleware over the process-wide default, joined anew at each `init()`.

    Attributes:
        joined: what applies to the middleware's requests: one attribute, read at each of them.
    """

    __slots__ = ("__weakref__", "_own", "joined")

    def __init__(self, own: Context) -> None:
        self._own = own
        self.joined: Context = own
        self.join()
        _over_default.add(self)

    def join(self) -> None:
        """Join the options with what is now the default."""
        self.joined = self._own.merged_under(process_default)
        self.joined.check_clients()


_over_default: weakref.WeakSet[OverDefault] = weakref.WeakSet()


def default() -> Context:
    """Return what `init()` configured, or a context without any option."""
    return process_default


def make_default(context: Context) -> Context:
    """Put a context in the process-wide default's place; return the one before."""
    global process_default
    before, process_default = process_default, context
    context.check_clients()
    for over in list(_over_default):
        over.join()
    return before


def forget_clients() -> None:
    """Let every reporting client be set up again."""
    _clients_set_up.clear()


def _set_up(client: ReportingClient) -> None:
    if any(one is client for one in _clients_set_up):
        return
    _clients_set_up.append(client)
    call(client, "setup", client.setup, pull_user)


def _is_recording(client: ReportingClient) -> bool:
    return bool(call(client, "is_recording", client.is_recording))


# --- finding the record -------------------------------------------------------------------------


def _reporting_record(error: BaseException | None) -> RequestRecord | None:
    """The record of an exception that passed through us, else that of the current request."""
    if error is not None:
        passed, record = of_error(error)
        if passed:
            return record
    return records.current()


def pull_user(error: BaseException | None = None, *, resolve: bool = True) -> dict[str, Any] | None:
    """Return the user to report as a fresh dict, or None; what clients are set up with.

    It never raises. An exception that passed through a middleware names its own request's user,
    wherever it is reported from; one that two requests raised names nobody.
    """
    with harmless("pull", "the user of a report could not be found"):
        return _pull(_reporting_record(error), resolve=resolve)
    return None


def _pull(record: RequestRecord | None, *, resolve: bool) -> dict[str, Any] | None:
    return None if record is None else record.context.outgoing(record, resolve=resolve)
