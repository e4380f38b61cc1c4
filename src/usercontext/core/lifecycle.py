"""Serving one request, step by step: for frameworks whose own server calls no ASGI or WSGI app.

`usercontext.asgi` does the same around one call of an app, in fewer steps for a request that
reports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from usercontext.core import resolution
from usercontext.core.capture import report_unhandled
from usercontext.core.context import default
from usercontext.core.record import UNKNOWN, RequestRecord, current, enter, leave
from usercontext.diagnostics import harmless
from usercontext.event_loop import run_in_own_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from usercontext.core.clients import ClientScopes
    from usercontext.core.context import Context

__all__ = [
    "RequestScope",
    "Serving",
    "ask",
    "complete",
    "complete_now",
    "fail",
    "flush_at_end",
    "is_open",
    "push",
    "push_now",
    "resolve_early",
    "resolve_early_now",
    "serving_inside",
]

_FLUSH_SECONDS = 2.0


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


class Serving:
    """One request from its start to its end: `async with Serving(record): ...`.

    Inside the block the record is the current one; an exception that leaves the block is
    reported, and passes.

    Args:
        record: the request's, fresh.
        is_error: tells the exceptions that are reported from those by which the framework is
            told what to answer.
    """

    __slots__ = ("_clients", "_is_error", "_token", "record")

    def __init__(
        self, record: RequestRecord, is_error: Callable[[Exception], bool] | None = None
    ) -> None:
        self.record: RequestRecord = record
        self._is_error = is_error
        self._clients: ClientScopes | None = None

    async def __aenter__(self) -> Self:
        record = self.record
        self._token = enter(record)
        if not record.context.is_plain:
            self._clients = record.context.isolate_clients(record)
            if record.context.eager:
                await resolve_early(record)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        record = self.record
        try:
            if isinstance(error, Exception) and (self._is_error is None or self._is_error(error)):
                await fail(record, error)
            elif record.state is not None and (kind is None or issubclass(kind, Exception)):
                # A task that is destroyed awaits nothing more.
                await complete(record)
        finally:
            if self._clients is not None:
                self._clients.close()
            leave(self._token)
            record.close()


@asynccontextmanager
async def serving_inside(
    own: Context, record: RequestRecord, source: Mapping[str, Any]
) -> AsyncIterator[None]:
    """Let options apply in a part of a request that has its record: in a mounted app.

    Args:
        own: the options of the middleware that is met inside.
        record: the request's, still open.
        source: the request as the part sees it, for the resolver that it may have.
    """
    own.join(record, source)
    if record.context.eager:
        await resolve_early(record)
    here = current()
    # A `use_user` block that the mounted app is called in stays what it is.
    token = enter(record if here is None or here.root is not record else here)
    try:
        yield
    finally:
        leave(token)


def is_open(found: object) -> TypeGuard[RequestRecord]:
    """Return whether what stands under the key is the record of a request that goes on."""
    return isinstance(found, RequestRecord) and found.ended is None


async def push(record: RequestRecord) -> None:
    """Hand clients that send this request anyway its user, as the response is about to start."""
    if record.ended is None and record.context.needs_push():
        if record.user is UNKNOWN:
            await ask(record)
            record.context.push_unresolved(record)
        else:
            record.context.push_again(record)


def push_now(record: RequestRecord) -> None:
    """Do what `push` does where nothing can be awaited; an async resolver is not asked."""
    if record.ended is None and record.context.needs_push():
        if record.user is UNKNOWN:
            resolution.ask(record)
            record.context.push_unresolved(record)
        else:
            record.context.push_again(record)


async def complete(record: RequestRecord) -> None:
    """Ask who the user is, if reports wait for that."""
    if record.state is not None and record.state.pending:
        await ask(record)


def complete_now(record: RequestRecord) -> None:
    """Do what `complete` does where nothing can be awaited."""
    if record.state is not None and record.state.pending:
        resolution.ask(record)


async def fail(record: RequestRecord, error: Exception) -> None:
    """Report an error that the app let pass, or that its framework turns into a response."""
    await ask(record)
    report_unhandled(error, record)


async def resolve_early(record: RequestRecord) -> None:
    """Resolve before the app; nobody is no final answer yet.

    A middleware inside may still authenticate the request.
    """
    await ask(record)
    if record.user is None:
        record.ask_again()


def resolve_early_now(record: RequestRecord) -> None:
    """Do what `resolve_early` does where nothing can be awaited."""
    resolution.ask(record)
    if record.user is None:
        record.ask_again()


async def ask(record: RequestRecord) -> None:
    """Make the user known if that can be done, within `resolver_timeout`."""
    with harmless("middleware", "the user of a request could not be resolved"):
        await resolution.ask_within(record)


async def flush_at_end() -> None:
    """Send what waits for the built-in client, as the server is about to end.

    Servers go on once the app has told them that it is through: what is not sent by then is
    sent at exit.
    """
    client = default().client
    if client is not None:
        with harmless("flush", "reports could not be sent at the server's end"):
            await run_in_own_thread(client.flush, _FLUSH_SECONDS)
