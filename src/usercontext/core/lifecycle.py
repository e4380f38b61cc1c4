"""A request from its start to its end: the one place where its steps and their order stand.

    begin     its record is the current one, and each client has opened a scope of its own
    started   clients that send the request anyway are handed its user, as the response starts
    fail      an error that nothing handles is reported, with the user
    end       reports that waited for the user are sent, the clients' scopes close while the record
              is still current and open, and the record ends

Each step that may await has a second form, `..._now`, for where nothing can be awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from usercontext.core import context
from usercontext.core.capture import report_unhandled
from usercontext.core.record import UNKNOWN, RequestRecord, current, enter, leave, reset
from usercontext.core.settings import default
from usercontext.diagnostics import harmless
from usercontext.event_loop import run_in_own_thread
from usercontext.source import lambda_context, seconds_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Token
    from types import TracebackType

    from usercontext.core.clients import ClientScopes
    from usercontext.core.settings import Settings

__all__ = [
    "RequestScope",
    "Serving",
    "ask_at_last",
    "ask_at_last_now",
    "begin",
    "begin_plain",
    "complete",
    "complete_now",
    "end",
    "end_now",
    "end_plain",
    "end_record",
    "end_scopes",
    "fail",
    "fail_now",
    "fail_or_exit_now",
    "flush_at_end",
    "flush_response",
    "flush_response_now",
    "inside",
    "is_open",
    "resolve",
    "resolve_early",
    "resolve_early_now",
    "serving_inside",
    "started",
    "started_now",
]

_FLUSH_SECONDS = 2.0
_FLUSH_BEFORE_KILL_SECONDS = 0.9


class RequestScope(Mapping[str, Any]):
    """A framework's request in the shape of an ASGI scope, no part of it made before it is read.

    Attributes:
        request: the framework's own, which the resolver is called with.

    Args:
        request: as above.
        parts: for each key of the scope what makes its value of the request.
    """

    __slots__ = ("_parts", "request")

    def __init__(self, request: object, parts: Mapping[str, Callable[[Any], Any]]) -> None:
        self.request: object = request
        self._parts = parts

    def __getitem__(self, key: str) -> Any:
        return self._parts[key](self.request)

    def __contains__(self, key: object) -> bool:
        return key in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


# --- the record that is current -----------------------------------------------------------------


class inside:  # noqa: N801 - it reads as what it makes of a block: `with inside(record):`
    """Make a record the current one for a block: a part of the request that runs on its own."""

    __slots__ = ("_record", "_token")

    def __init__(self, record: RequestRecord | None) -> None:
        self._record = record

    def __enter__(self) -> None:
        self._token = enter(self._record)

    def __exit__(self, *_: object) -> None:
        leave(self._token)


def is_open(found: object) -> TypeGuard[RequestRecord]:
    """Return whether what stands under the key is the record of a request that goes on."""
    return isinstance(found, RequestRecord) and found.ended is None


# --- begin --------------------------------------------------------------------------------------


def begin(record: RequestRecord) -> ClientScopes | None:
    """Open the clients' scopes of a request whose record is current; None where there are none."""
    settings = record.settings
    if settings.unhooked:
        context.look_again(settings.take_unhooked())
    if settings.acting is not None:
        settings.acting(record)
    return context.isolate_clients(record) if settings.isolating else None


async def resolve_early(record: RequestRecord) -> None:
    """Resolve before the app; nobody is not a final answer yet.

    A middleware inside may still authenticate the request.
    """
    await resolve(record)
    if record.user is None:
        record.ask_again()


def resolve_early_now(record: RequestRecord) -> None:
    """Do what `resolve_early` does where nothing can be awaited."""
    context.ask(record)
    if record.user is None:
        record.ask_again()


async def resolve(record: RequestRecord) -> None:
    """Make the user known if that can be done, within `resolver_timeout`."""
    with harmless("middleware", "the user of a request could not be resolved"):
        await context.resolve_within(record)


# --- started ------------------------------------------------------------------------------------


async def started(record: RequestRecord) -> None:
    """Hand clients that send this request anyway its user, as the response is about to start."""
    if record.ended is None and context.needs_push(record):
        if record.user is UNKNOWN:
            await resolve(record)
            context.push_unresolved(record)
        else:
            context.push_again(record)


def started_now(record: RequestRecord) -> None:
    """Do what `started` does where nothing can be awaited; an async resolver is not asked."""
    if record.ended is None and context.needs_push(record):
        if record.user is UNKNOWN:
            context.ask(record)
            context.push_unresolved(record)
        else:
            context.push_again(record)


# --- fail ---------------------------------------------------------------------------------------


async def fail(record: RequestRecord, error: Exception) -> None:
    """Report an error that the app let pass, or that its framework turns into a response."""
    await ask_at_last(record)
    report_unhandled(error, record)


def fail_now(record: RequestRecord, error: Exception) -> None:
    """Do what `fail` does where nothing can be awaited."""
    ask_at_last_now(record)
    report_unhandled(error, record)


async def ask_at_last(record: RequestRecord) -> None:
    """Find the user of a request that fails, once more where nobody was found before."""
    _forget_nobody(record)
    await resolve(record)


def ask_at_last_now(record: RequestRecord) -> None:
    """Do what `ask_at_last` does where nothing can be awaited."""
    if record.ended is None:
        _forget_nobody(record)
        context.ask(record)


def _forget_nobody(record: RequestRecord) -> None:
    """Have a resolver that found nobody asked again: that was before authentication, maybe."""
    state = record.state
    if record.user is None and not (state is not None and state.timed_out):
        record.ask_again()


def fail_or_exit_now(record: RequestRecord, error: BaseException) -> None:
    """Report what leaves an app if it is an error, or tells that the worker is ended for one.

    A `SystemExit` with a status is how gunicorn ends a worker whose request takes too long: it
    kills the process a second later, so the report is sent at once. Other stops are not errors.
    """
    if isinstance(error, Exception):
        fail_now(record, error)
    elif isinstance(error, SystemExit) and error.code not in (None, 0):
        context.ask(record)
        report_unhandled(error, record)
        _flush(_FLUSH_BEFORE_KILL_SECONDS)


# --- end ----------------------------------------------------------------------------------------


async def complete(record: RequestRecord) -> None:
    """Ask who the user is, if reports wait for that."""
    if record.state is not None and record.state.pending:
        await resolve(record)


def complete_now(record: RequestRecord) -> None:
    """Do what `complete` does where nothing can be awaited."""
    if record.state is not None and record.state.pending:
        context.ask(record)


async def end(record: RequestRecord, scopes: ClientScopes | None) -> None:
    """End a request whose user may still be awaited."""
    try:
        await complete(record)
        if record.settings.flushes:
            await flush_response(record)
    finally:
        end_now(record, scopes)


def end_now(record: RequestRecord, scopes: ClientScopes | None) -> None:
    """End a request: nothing is awaited any more."""
    try:
        end_scopes(record, scopes)
    finally:
        _close(record)


def end_scopes(record: RequestRecord, scopes: ClientScopes | None) -> None:
    """Close the scopes of clients, for which the record is the current one, and open."""
    if scopes is not None:
        with inside(record):  # from whatever thread or context it is that a body is closed
            scopes.close()


def _close(record: RequestRecord) -> None:
    """End the record: drop scope and resolver, keep a known user for detached work."""
    if record.ended is not None:
        return
    state = record.state
    if state is not None:
        if state.pending and not context.complete_later(record):
            context.complete_pending(record)
        if state.request is not None or state.data is not None:
            state.request = state.data = None
        if state.must_flush and record.source is not None and not record.settings.flushes:
            _flush_before_freeze(record.source)
    if record.settings.flushes:
        flush_response_now(record)
    if record.user is not UNKNOWN:
        _keep(record)
    record.ended = monotonic()
    record.source = None


def _flush_before_freeze(source: Mapping[str, Any]) -> None:
    """Send what waits, where the process is stopped once the response is there: in AWS Lambda."""
    found = lambda_context(source)
    if found is not None:
        _flush(seconds_left(found))


async def flush_response(record: RequestRecord) -> None:
    """Send what a request has reported before its response ends, if that is asked for."""
    from usercontext.core import flushing  # of use on few platforms

    await flushing.flush_response(record)


def flush_response_now(record: RequestRecord) -> None:
    """Do what `flush_response` does where nothing can be awaited."""
    from usercontext.core import flushing

    flushing.flush_response_now(record)


def _flush(seconds: float) -> None:
    from usercontext.core.flushing import flush

    flush(seconds)


# A request without clients, which is nearly every one, begins and ends in fewer steps: each
# call more would be felt. What they do is the same, which a test holds.

#: Make the record of a request without clients the current one; return what ends that.
begin_plain: Callable[[RequestRecord], Token[RequestRecord | None]] = enter


def end_plain(record: RequestRecord, token: Token[RequestRecord | None]) -> None:
    """End a request without clients."""
    try:
        reset(token)
    except ValueError:
        leave(token)
    end_record(record)


def end_record(record: RequestRecord) -> None:
    """End the record of a request without clients, which is not the current one any more."""
    if record.state is not None:
        _close(record)
        return
    if record.user is UNKNOWN:
        record.ended = 0.0
    else:
        if record.settings.keeps:
            _keep(record)
        record.ended = monotonic()
    record.source = None


def _keep(record: RequestRecord) -> None:
    """Keep of a known user's request what work that outlives it may need."""
    if record.settings.held is not None:
        context.keep_user(record)
    is_sought = record.address is UNKNOWN and record.user is not UNKNOWN
    if is_sought and record.settings.includes_ip:
        # While there is a scope to find it in: the address belongs to the known user.
        context.keep_address(record)


# --- all of them, around a block ----------------------------------------------------------------


class Serving:
    """One request from its start to its end: `async with Serving(record): ...`.

    Inside the block the record is the current one; an exception that leaves the block is
    reported, and passes.

    Args:
        record: the request's, fresh.
        is_error: tells the exceptions that are reported from those by which the framework is
            told what to answer.
    """

    __slots__ = ("_is_error", "_scopes", "_token", "record")

    def __init__(
        self, record: RequestRecord, is_error: Callable[[Exception], bool] | None = None
    ) -> None:
        self.record: RequestRecord = record
        self._is_error = is_error
        self._scopes: ClientScopes | None = None

    async def __aenter__(self) -> Self:
        record = self.record
        self._token = enter(record)
        if record.settings.includes_ip and record.source is not None:
            context.keep_peer(record.settings, record.source)
        if not record.settings.is_bare:
            self._scopes = begin(record)
            if record.settings.eager:
                await resolve_early(record)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        record = self.record
        if kind is None and self._scopes is None and record.state is None:
            # Nearly every request: nothing is awaited, and nobody is told.
            end_plain(record, self._token)
            return
        try:
            if isinstance(error, Exception) and (self._is_error is None or self._is_error(error)):
                await fail(record, error)
            elif isinstance(error, SystemExit):
                fail_or_exit_now(record, error)
            elif kind is None or issubclass(kind, Exception):
                # A task that is destroyed awaits nothing more.
                await complete(record)
            if record.settings.flushes and (kind is None or issubclass(kind, Exception)):
                await flush_response(record)
        finally:
            end_now(record, self._scopes)
            leave(self._token)


class serving_inside:  # noqa: N801 - as `inside`
    """Let options apply in a part of a request that has its record: in a mounted app.

    Args:
        own: the options of the middleware that is met inside.
        record: the request's, still open.
        source: the request as the part sees it, for the resolver that it may have.
    """

    __slots__ = ("_own", "_record", "_source", "_token")

    def __init__(self, own: Settings, record: RequestRecord, source: Mapping[str, Any]) -> None:
        self._own = own
        self._record = record
        self._source = source

    async def __aenter__(self) -> None:
        record = self._record
        context.join(self._own, record, self._source)
        if record.settings.eager:
            await resolve_early(record)
        here = current()
        # A `use_user` block that the mounted app is called in stays what it is.
        self._token = enter(record if here is None or here.root is not record else here)

    async def __aexit__(self, *_: object) -> None:
        leave(self._token)


async def flush_at_end() -> None:
    """Send what waits for the built-in client, as the server is about to end.

    Servers go on once the app has told them that it is through: what is not sent by then is
    sent at exit.
    """
    client = default().client
    if client is not None:
        with harmless("flush", "reports could not be sent at the server's end"):
            await run_in_own_thread(client.flush, _FLUSH_SECONDS)
