"""The pipeline: from a request's record to the user that is reported to clients.

Clients and frameworks are handed in; nothing here imports one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from usercontext import event_loop
from usercontext.address.client import BEGAN
from usercontext.core import clients as reporting
from usercontext.core import resolution
from usercontext.core.clients import ClientScopes
from usercontext.core.passage import of_error
from usercontext.core.record import UNKNOWN, RequestRecord, current
from usercontext.core.settings import (
    JoinedSettings,
    Settings,
    default,
    join_again,
    replace_default,
)
from usercontext.diagnostics import failure, harmless, warn_once
from usercontext.source import is_environ, lambda_context
from usercontext.user import AUTO_ADDRESS, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.core.options import ContextOptions
    from usercontext.source import Source
    from usercontext.types import Event, Reporter, ReportingClient

__all__ = [
    "ask",
    "became_known",
    "collected_address",
    "complete_later",
    "complete_pending",
    "configure",
    "configure_joined",
    "describe",
    "is_wanted",
    "isolate_clients",
    "join",
    "keep_address",
    "keep_peer",
    "keep_user",
    "look_again",
    "make_default",
    "needs_push",
    "outgoing",
    "pull_user",
    "push_again",
    "push_unresolved",
    "report",
    "resolve",
    "resolve_within",
    "user_of",
]

# About what the copy of a request takes in memory until its report is sent.
_SOURCE_BYTES = 4096
_EXTRAS_ALONE = (
    "a user has extra values alone, and no address was found for it: counted as nobody; give it an "
    "id, username or email"
)
_PULL_FAILED = "the user of a report could not be found"

# --- putting it together ------------------------------------------------------------------------


def configure(
    *,
    client: Reporter | None = None,
    make_request: Callable[[Any], object] | None = None,
    **options: Unpack[ContextOptions],
) -> Settings:
    """Make the settings of a middleware or of the process, and set up the clients among them.

    Args:
        client: see `Settings`.
        make_request: see `Settings`.
        options: see `ContextOptions`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """
    settings = Settings(client=client, make_request=make_request, **options)
    for one in settings.clients:
        reporting.set_up(one, pull_user)
    return settings


def configure_joined(own: Settings) -> JoinedSettings:
    """Join the settings of a middleware with the default, now and at each `init()`."""
    joined = JoinedSettings(own)
    _check_clients(joined.joined)
    return joined


def make_default(settings: Settings) -> Settings:
    """Put settings in the process-wide default's place; return those before."""
    before = replace_default(settings)
    _check_clients(settings)
    for joined in join_again():
        _check_clients(joined)
    return before


def _check_clients(settings: Settings) -> None:
    reporting.check_settings(settings.clients, includes_ip=settings.includes_ip)


def join(own: Settings, record: RequestRecord, source: Mapping[str, Any]) -> None:
    """Let options apply from here on, inside a request that has its record already.

    That is how a mounted app with its own authentication names its own users; an explicit
    user stays, and the same middleware met twice changes nothing.
    """
    outer = record.settings
    record.settings = own.merged_under_once(outer)
    if record.settings.request_data is not outer.request_data:
        record.address = UNKNOWN
        if record.settings.includes_ip:
            keep_peer(record.settings, source)
    if not own.has_resolver or own.resolver is outer.resolver:
        return
    record.source = source
    record.ask_again()


# --- the user -----------------------------------------------------------------------------------


def ask(record: RequestRecord) -> User | None:
    """Return the user of a record without address, calling a resolver that can be called here."""
    if record.settings.held is not None:
        resolution.follow(record)
    is_new = record.user is UNKNOWN and resolution.ask(record)
    # The first question of `became_known`: a call more would be felt at every read.
    if is_new and (record.settings.clients or record.state is not None):
        became_known(record)
    user = record.user
    return None if user is UNKNOWN else user


async def resolve(record: RequestRecord) -> None:
    """Make the user of an open record known, awaiting an async resolver."""
    resolution.follow(record)
    if await resolution.resolve(record):
        became_known(record)


async def resolve_within(record: RequestRecord) -> None:
    """Make the user known within `resolver_timeout`; a resolver that hangs means nobody."""
    resolution.follow(record)
    if await resolution.resolve_within(record):
        became_known(record)


def collected_address(record: RequestRecord) -> str | None:
    """Return the client's address if it may be reported, found once per request."""
    settings = record.settings
    if not settings.includes_ip:
        return None
    root = record if type(record) is RequestRecord else record.root
    found = root.address
    if found is None or type(found) is str:
        return found
    source = root.source
    try:
        if source is not None:
            found = settings.request_data.ip_address(source)
        elif type(found) is tuple:
            found = settings.request_data.observed_ip_address(found)
        else:
            found = None
    except Exception:  # noqa: BLE001 - `with harmless(...)` would be felt here
        found = None
        failure("client address", "the client's address could not be found")
    root.address = found
    return found


def keep_user(record: RequestRecord) -> None:
    """Keep the user that the framework held last, for work that outlives the request."""
    resolution.follow(record)
    if record.user is UNKNOWN:
        resolution.ask(record)


def keep_address(record: RequestRecord) -> None:
    """Keep what tells the client's address before the scope goes, to be read if a report asks."""
    root = record if type(record) is RequestRecord else record.root
    source = root.source
    if source is None or root.address is not UNKNOWN:
        return
    try:
        root.address = record.settings.request_data.observe(source)
    except Exception:  # noqa: BLE001
        failure("client address", "the client's address could not be found")


def keep_peer(settings: Settings, source: Source) -> None:
    """Keep in a request that begins what it says of its client, as the app may change it.

    The middlewares of ASGI and WSGI write these steps out.
    """
    if isinstance(source, dict):
        is_one = is_environ(source)
        source[BEGAN] = (settings.begin_environ if is_one else settings.begin_scope)(source)


def user_of(record: RequestRecord, *, resolve: bool = True) -> User | None:
    """Return the user of a record with its address; peek only, unless `resolve`."""
    settings = record.settings
    if settings.held is not None:
        answered: Any = record.resolution
        # What `follow` does, where no call is needed for it.
        try:
            stands = answered.where[answered.key] is answered.seen
        except (AttributeError, KeyError):  # nobody has answered, or nothing stands there now
            stands = False
        if not stands:
            resolution.follow(record)
        if not resolve:
            resolve = record.user is UNKNOWN and resolution.is_found(record)
    user = record.user if record.ended is None else record.known()
    if user is UNKNOWN:
        if settings.resolver is None:
            user = None
        elif resolve:
            user = ask(record)
        else:
            return None
    if not settings.includes_ip or (user is not None and user._values[3] is not None):
        return user
    address = collected_address(record)
    if address is None:
        return user if user is None or user.identity is not None else _nobody()
    return User(ip_address=address) if user is None else user._with_address(address)


def _nobody() -> User | None:
    """Say that a user of extra values alone has no address, which would be the field it needs."""
    warn_once("extra values alone", _EXTRAS_ALONE)
    return None


def _reported_user(record: RequestRecord) -> dict[str, Any] | None:
    """Return the user for the built-in client, which scrubs last and knows `{{auto}}`."""
    if _is_withheld(record):
        return None
    user = user_of(record)
    if user is None:
        return None
    fields = user.to_dict()
    if user.ip_address == AUTO_ADDRESS:
        fields["ip_address"] = collected_address(record) or AUTO_ADDRESS
    return fields


def outgoing(record: RequestRecord, *, resolve: bool = True) -> dict[str, Any] | None:
    """Return the user for a reporting client of others: a fresh dict, scrubbed."""
    if _is_withheld(record):
        return None
    user = user_of(record, resolve=resolve)
    if user is None:
        return None
    fields: dict[str, Any] | None = user.to_dict()
    if user.ip_address == AUTO_ADDRESS:
        # Only the Sentry protocol knows what that means.
        fields = _without_auto(record, user)
    scrubber = record.settings.scrubber
    if fields and scrubber:
        fields = scrubber.user(fields)
    return fields or None


def _without_auto(record: RequestRecord, user: User) -> dict[str, Any]:
    """Return the fields with the collected address filled in, or without any."""
    fields = user.to_dict()
    address = collected_address(record)
    if address is None:
        del fields["ip_address"]
    else:
        fields["ip_address"] = address
    return fields


def _is_withheld(record: RequestRecord) -> bool:
    state = record.root.state
    return state is not None and state.withheld


# --- reporting clients --------------------------------------------------------------------------


def became_known(record: RequestRecord) -> None:
    """Hand on a user that has just become known, or has changed."""
    clients = record.settings.clients
    if clients and record.root is record and record.ended is None:
        _push(record, clients, resolve=False)
    if record.state is not None and record.state.pending:
        complete_pending(record)


def _push(record: RequestRecord, clients: tuple[ReportingClient, ...], *, resolve: bool) -> None:
    reporting.push(record, clients, outgoing(record, resolve=resolve))


def needs_push(record: RequestRecord) -> bool:
    """Return whether a client will send this request anyway, and so wants its user now."""
    return any(map(reporting.is_recording, record.settings.recording))


def push_unresolved(record: RequestRecord) -> None:
    """Push what is known of a request that nobody resolves: its address, or nobody.

    A resolver that has left the question open is asked again: a peek would show no address.
    """
    if record.user is UNKNOWN:
        _push(record, record.settings.clients, resolve=True)


def push_again(record: RequestRecord) -> None:
    """Push a user who was known before to what may have begun since then.

    A trace begins inside of us where its middleware is, and authentication may come before.
    """
    clients = tuple(filter(reporting.is_recording, record.settings.recording))
    _push(record, clients, resolve=False)


def look_again(clients: Iterable[ReportingClient] | None = None) -> None:
    """Have clients hook into libraries that were configured after them; by default all clients."""
    reporting.look_again(clients)


def isolate_clients(record: RequestRecord) -> ClientScopes:
    """Open the request scopes of all clients, which the caller closes."""

    def get_user(
        error: BaseException | None = None, *, resolve: bool = True
    ) -> dict[str, Any] | None:
        with harmless("pull", _PULL_FAILED):
            # A `use_user` block or an `isolation_scope` inside the request speaks for itself.
            return _pull(_reporting_record(error) or record, resolve=resolve)
        return None

    return ClientScopes(record.settings.isolating, get_user)


def _reporting_record(error: BaseException | None) -> RequestRecord | None:
    """The record of an exception that passed through us, else the current request's."""
    if error is not None:
        passed, record = of_error(error)
        if passed:
            return record
    return current()


def pull_user(error: BaseException | None = None, *, resolve: bool = True) -> dict[str, Any] | None:
    """Return the user to report as a fresh dict, or None; what clients are set up with.

    It never raises. An exception that passed through a middleware names its own request's user,
    wherever it is reported from; one that two requests raised names nobody.
    """
    with harmless("pull", _PULL_FAILED):
        return _pull(_reporting_record(error), resolve=resolve)
    return None


def _pull(record: RequestRecord | None, *, resolve: bool) -> dict[str, Any] | None:
    return None if record is None else outgoing(record, resolve=resolve)


# --- reports of our own -------------------------------------------------------------------------


def describe(record: RequestRecord, event: Event) -> None:
    """Put what may be reported of the request into an event."""
    root, settings = record.root, record.settings
    after_response = record.seconds_after_response()
    if after_response is not None:
        told = event.setdefault("contexts", {}).setdefault("usercontext", {})
        told["after_response"] = round(after_response, 3)
    if root.state is not None and root.state.call is not None:
        event["transaction"] = root.state.call["name"]
        event.setdefault("contexts", {})["call"] = dict(root.state.call)
    if root.source is None:
        return
    if lambda_context(root.source) is not None:
        root.make_state().must_flush = True
    data = None if root.state is None else root.state.data
    is_withheld = _is_withheld(record)
    handed_over = data, _secrets_of(settings, data)  # now, as the app may change it
    # A report of the built-in client can be finished on its thread, of what is copied now.
    later: Callable[..., object] | None = getattr(event, "later", None)
    may_wait = later is not None and (data is None or not settings.request_data.include_data)
    copied = settings.request_data.snapshot(root.source) if may_wait else None
    if later is None or copied is None:
        _describe(event, settings, root.source, handed_over, is_withheld)
        return
    event["request"] = None  # its place
    later(_describe, settings, copied, handed_over, is_withheld, weight=_SOURCE_BYTES)


def _secrets_of(settings: Settings, data: object) -> tuple[str, ...]:
    if data is None or settings.exception_text == "full":
        return ()
    from usercontext.request.withheld import secrets_of_data

    return secrets_of_data(data)


def _describe(
    event: Event,
    settings: Settings,
    source: Source,
    handed_over: tuple[object, tuple[str, ...]],
    is_withheld: bool,
) -> None:
    from usercontext.request import description  # only a request that is reported needs it

    data, secrets = handed_over
    include_ip = settings.includes_ip and not is_withheld
    request = description.collect(settings.request_data, source, data=data, include_ip=include_ip)
    if request:
        event["request"] = request
    else:
        event.pop("request", None)
    # How the address was found, and what of the request was kept back.
    told = description.explain(settings.request_data, source, data=data)
    withheld = told.setdefault("withheld", [])
    if settings.scrubber.never_store_ip:
        withheld.append({"what": "every address", "rule": "never_store_ip=True"})
    if is_withheld:
        withheld.append({"what": "user and address", "rule": "set_reporting(False)"})
    told["address"]["included"] = include_ip
    event.setdefault("contexts", {}).setdefault("usercontext", {}).update(told)
    if settings.exception_text != "full":
        from usercontext.request.withheld import hide_in_event

        hides_addresses = not include_ip or settings.request_data.anonymize_ip is not False
        hide_in_event(
            event,
            settings.request_data,
            source,
            secrets=secrets,
            hides_addresses=hides_addresses,
        )


def is_wanted(record: RequestRecord | None, client: Reporter, *, is_complete: bool = False) -> bool:
    """Return whether a client that chooses by user wants a report, which is not built yet.

    Where the user is yet to be awaited, that is asked when the report is complete.
    """
    admits: Callable[[Any], bool] | None = getattr(client, "admits", None)
    if admits is None:
        return True
    if record is None:
        return admits(None)
    user = _reported_user(record)
    return (not is_complete and _is_awaited(record)) or admits(user)


def report(record: RequestRecord, event: Event, client: Reporter) -> str | None:
    """Send an event with the user of its record, or hold it until the user is known."""
    user = _reported_user(record)
    if _is_awaited(record):
        waiting = record.root.make_state().__dict__.setdefault("pending", [])  # in one step
        waiting.append(event)
        return str(event["event_id"])
    return _send(record, event, user, client)


def _send(
    record: RequestRecord, event: Event, user: dict[str, Any] | None, client: Reporter
) -> str | None:
    if user is not None:
        event["user"] = user
    return client.send(event, scrub=record.settings.scrub)


def _is_awaited(record: RequestRecord) -> bool:
    """Whether an async resolver may still name the user of this open request."""
    settings = record.settings
    return (
        (settings.awaits or settings.async_resolver is not None)
        and record.user is UNKNOWN
        and record.ended is None
        and settings.resolver is not None
        and not resolution.is_inside(record)
    )


def complete_later(record: RequestRecord) -> bool:
    """Leave the reports that wait for an async resolver to a task of their own.

    For a request that is cancelled, and so awaits nothing more. Its record ends at once; another
    one stands in its place until the user is known, for `resolver_timeout` at most.

    Returns:
        False where there is nothing to wait for, or no loop to do it on.
    """
    if not _is_awaited(record) or not event_loop.is_running():
        return False
    later = RequestRecord.of(record.source, record.settings)
    later.address = record.address
    vars(later.make_state()).update(vars(record.make_state()))
    record.make_state().pending = None

    async def complete() -> None:
        try:
            with harmless("middleware", "the user of a request could not be resolved"):
                await resolution.resolve_within(later)
        finally:
            complete_pending(later)
            later.ended, later.source, later.state = 0.0, None, None

    event_loop.start_task(complete)
    return True


def complete_pending(record: RequestRecord) -> None:
    """Send the reports that waited for the user, with what is known by now."""
    if record.state is None or record.state.pending is None:
        return
    pending, client = record.state.pending, default().client
    # One by one, and each of them once: another thread may be completing them as well.
    while pending:
        try:
            event = pending.pop(0)
        except IndexError:
            return
        if client is None:
            continue
        with harmless("built-in client", "a report could not be completed with its user"):
            if is_wanted(record, client, is_complete=True):
                _send(record, event, _reported_user(record), client)
