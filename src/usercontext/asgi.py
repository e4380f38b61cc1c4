"""The ASGI middleware: a fresh record for every request, and a firewall around the server."""

from __future__ import annotations

import sys
from copy import copy
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, Unpack

from usercontext import resolution
from usercontext.capture import report_unhandled
from usercontext.context import OverDefault, UserContext, default
from usercontext.diagnostics import harmless
from usercontext.event_loop import run_beside
from usercontext.exceptions import MissingDependencyError
from usercontext.record import KEY, UNKNOWN, RequestRecord, current, enter, leave, reset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.options import ContextOptions
    from usercontext.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["UserContextMiddleware"]

# What ends a response, and the server goes on to whatever is next on the connection:
# unless the message says, by the key beside it, that more is to come.
_LAST = {
    "http.response.body": "more_body",
    "http.response.trailers": "more_trailers",
    "http.response.pathsend": "more_body",
    "http.response.zerocopysend": "more_body",
    "websocket.http.response.body": "more_body",
    "websocket.close": "more_body",
}


_FLUSH_SECONDS = 2.0


class UserContextMiddleware:
    """Give every HTTP request and websocket of an ASGI app a user of its own.

    Works as `app.add_middleware(UserContextMiddleware, resolver=...)`, and, where errors that
    nothing handles matter most, around the whole app: `app = UserContextMiddleware(app, ...)`.
    Lifespan messages pass untouched; at its end what waits for the built-in client is sent.

    Args:
        app: the application to serve.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with Starlette's `HTTPConnection`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
        MissingDependencyError: a resolver is given, and starlette is not installed.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[ContextOptions]) -> None:
        self.app = app
        self._own = UserContext(make_request=self._request_maker(options), **options)
        self._defaults = OverDefault(self._own)
        _mark_awaitable(_Exchange.send)
        _mark_awaitable(_RecordingExchange.send)

    @staticmethod
    def _request_maker(options: ContextOptions) -> Callable[[Any], object]:
        """Return what makes the resolver's request of a scope: frameworks may have their own."""
        if options.get("resolver") is not None:
            _import_connection()
        return _make_connection

    def _around(self, app: ASGIApp) -> Self:
        """Return the same middleware, configured once, around another app."""
        around = copy(self)
        around.app = app
        return around

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            if scope["type"] == "lifespan":
                await _flush()
            return
        outer = scope.get(KEY)
        if outer is not None and _is_open(outer):
            await self._serve_inside(outer, scope, receive, send)
            return
        context = self._defaults.joined
        scope[KEY] = record = RequestRecord(scope, context)
        if not context.is_plain:
            await _serve_with_clients(self.app, record, receive, send)
            return
        exchange = _Exchange(receive, send)
        token = enter(record)
        try:
            await self.app(scope, exchange.receive, exchange.send)
            if record.extras is not None and record.extras.pending:
                await _harmlessly(resolution.ask_within, record)
        except Exception as error:
            await _fail(record, error)
            raise
        finally:
            try:
                reset(token)
            except ValueError:
                leave(token)
            # What close() does, at a tenth of its cost, for a request that reported nothing.
            if record.user is UNKNOWN and record.extras is None:
                record.ended = 0.0
                record.source = None
            elif record.extras is None and not context.includes_ip:
                record.ended = monotonic()
                record.source = None
            else:
                record.close()

    async def _serve_inside(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a mounted app, or one that is wrapped twice: the record is there already."""
        self._own.join(record, scope)
        if record.context.eager:
            await _resolve_early(record)
        if record.context.recording:
            send = _RecordingExchange(receive, send, record).send
        here = current()
        # A `use_user` block that the mounted app is called in stays what it is.
        token = enter(record if here is None or here.root is not record else here)
        try:
            await self.app(scope, receive, send)
        finally:
            leave(token)


async def _flush() -> None:
    """Send what waits for the built-in client, as the server is about to end.

    Servers go on once the app has told them that it is through: what is not sent by then is
    sent at exit.
    """
    client = default().client
    if client is not None:
        with harmless("flush", "reports could not be sent at the server's end"):
            await run_beside(client.flush, _FLUSH_SECONDS)


def _mark_awaitable(function: Any) -> None:
    """Say of a plain function that its result is awaited, as Python has no word for it.

    asgiref's `async_to_sync` warns of a `send` without the mark: that of Channels' sync consumers.
    """
    if sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction

        markcoroutinefunction(function)
        return
    from asyncio import coroutines

    function._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]


def _is_open(outer: object) -> bool:
    return isinstance(outer, RequestRecord) and outer.ended is None


def _import_connection() -> type[Any]:
    try:
        from starlette.requests import HTTPConnection
    except ImportError:
        raise MissingDependencyError("starlette", "asgi", purpose="A resolver over ASGI") from None
    return HTTPConnection


_connection_class = cache(_import_connection)


def _make_connection(scope: Any) -> object:
    return _connection_class()(scope)


class _Exchange:
    """One request's exchange with its server, kept apart from the request's user.

    Servers start the next request, or a callback that lives as long as the connection, in the
    context in which `receive()` or the last `send()` was called (python/cpython#140947,
    Kludex/uvicorn#2167): there our variable holds nothing.
    """

    __slots__ = ("_receive", "_send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        token = enter(None)
        try:
            return await self._receive()
        finally:
            leave(token)

    def send(self, message: Message) -> Awaitable[None]:
        more = _LAST.get(message["type"])
        if more is None or message.get(more):
            return self._send(message)
        return self._send_last(message)

    async def _send_last(self, message: Message) -> None:
        token = enter(None)
        try:
            await self._send(message)
        finally:
            try:
                reset(token)
            except ValueError:
                leave(token)


class _RecordingExchange(_Exchange):
    """An exchange that hands clients the user at the latest when the response starts."""

    __slots__ = ("_record",)

    def __init__(self, receive: Receive, send: Send, record: RequestRecord) -> None:
        super().__init__(receive, send)
        self._record = record

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in ("http.response.start", "websocket.accept"):
            return self._start(message)
        return super().send(message)

    async def _start(self, message: Message) -> None:
        record = self._record
        if record.ended is None and record.context.needs_push():
            if record.user is UNKNOWN:
                await _harmlessly(resolution.ask_within, record)
                record.context.push_unresolved(record)
            else:
                record.context.push_again(record)
        await self._send(message)


async def _serve_with_clients(
    app: ASGIApp, record: RequestRecord, receive: Receive, send: Send
) -> None:
    context = record.context
    exchange = _RecordingExchange(receive, send, record)
    token = enter(record)
    try:
        with context.isolate_clients(record):
            if context.eager:
                await _resolve_early(record)
            await _run_reported(app, record, exchange)
    finally:
        leave(token)
        record.close()


async def _run_reported(app: ASGIApp, record: RequestRecord, exchange: _Exchange) -> None:
    scope: Any = record.source
    try:
        await app(scope, exchange.receive, exchange.send)
        if record.extras is not None and record.extras.pending:
            await _harmlessly(resolution.ask_within, record)
    except Exception as error:
        await _fail(record, error)
        raise


async def _resolve_early(record: RequestRecord) -> None:
    """Resolve before the app; nobody is no final answer yet.

    A middleware inside may still authenticate the request.
    """
    await _harmlessly(resolution.ask_within, record)
    if record.user is None:
        record.ask_again()


async def _fail(record: RequestRecord, error: Exception) -> None:
    await _harmlessly(resolution.ask_within, record)
    report_unhandled(error, record)


async def _harmlessly(
    function: Callable[[RequestRecord], Awaitable[None]], record: RequestRecord
) -> None:
    with harmless("middleware", "the user of a request could not be resolved"):
        await function(record)
