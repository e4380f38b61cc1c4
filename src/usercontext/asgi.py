"""The ASGI middleware: a fresh record for every request, and a firewall around the server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self, Unpack

from usercontext.address.client import BEGAN
from usercontext.checks import options_by_name
from usercontext.core import capture
from usercontext.core.context import configure, configure_joined
from usercontext.core.interface import (
    check_interface,
    missing_attribute,
    refuse_as_class,
    refuse_rsgi,
)
from usercontext.core.lifecycle import (
    Serving,
    begin_plain,
    complete,
    end_record,
    fail,
    fail_or_exit_now,
    flush_at_end,
    flush_response,
    is_open,
    serving_inside,
    started,
)
from usercontext.core.plain import look_into_scopes
from usercontext.core.record import KEY, UNKNOWN, RequestRecord, enter, key_in, leave, reset
from usercontext.core.settings import default
from usercontext.optional import importing
from usercontext.source import keep_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.core.options import ContextOptions
    from usercontext.core.settings import Settings
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


def _import_connection() -> type[Any]:
    with importing("starlette", "asgi", purpose="A resolver over ASGI"):
        from starlette.requests import HTTPConnection
    _connection_classes.append(HTTPConnection)
    return HTTPConnection


# Empty until a resolver needs it: asking a cached function costs 400 instructions at each read.
_connection_classes: list[type[Any]] = []


def _make_connection(scope: Any) -> object:
    headers = scope.get("headers")
    # Whoever makes the headers makes each in the same way: to look at all would be felt.
    if type(headers) is not list or (headers and type(headers[0]) is not tuple):
        keep_headers(scope)
    kind = _connection_classes[0] if _connection_classes else _import_connection()
    return kind(scope)


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
        ConfigurationError: an option is wrong, or the app is of WSGI; the message names the fix.
        MissingDependencyError: a resolver is given, and starlette is not installed.
    """

    #: What makes the resolver's request of a scope; frameworks have their own.
    make_request: Callable[[Any], object] = staticmethod(_make_connection)

    @options_by_name
    def __init__(self, app: ASGIApp, **options: Unpack[ContextOptions]) -> None:
        check_interface(app, "ASGI")
        refuse_as_class(self, app)
        self.app: ASGIApp = app
        if self.make_request is _make_connection and options.get("resolver") is not None:
            _import_connection()
        self.own: Settings = configure(make_request=self.make_request, **options)
        self._joined = configure_joined(self.own)
        from usercontext.core import swallowed  # of no use before an app is wrapped

        swallowed.listen()
        if self.make_request is _make_connection:
            swallowed.check_answers_nothing(app)
        _watch_loaded()
        look_into_scopes()
        _mark_awaitable(_Exchange.send)
        _mark_awaitable(_RecordingExchange.send)

    def around(self, app: ASGIApp) -> Self:
        """Return the same middleware, configured once, around another app."""
        # Some frameworks go around an app at each request, where `copy()` costs more than all else.
        around = object.__new__(type(self))
        vars(around).update(vars(self), app=app)
        return around

    if not TYPE_CHECKING:  # a type checker would take every name to exist

        def __getattr__(self, name: str) -> object:
            raise missing_attribute(self, name)

    def __rsgi_init__(self, _loop: object) -> None:
        """Let a server of RSGI fail as it starts, which would fail at each request."""
        refuse_rsgi("ASGI")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await _pass_on(self.app, scope, receive, send)
            return
        settings = self._joined.joined
        # What `RequestRecord.of(scope, settings)` does.
        record = RequestRecord()
        record.source = scope
        record.settings = settings
        record.user = record.address = UNKNOWN
        record.resolution = record.ended = record.state = None
        outer = scope.setdefault(KEY, record)
        if outer is not record:
            key = key_in(scope)
            outer = scope.get(key)
            if is_open(outer):
                await self._serve_inside(outer, scope, receive, send)
                return
            scope[key] = record
        if not settings.is_plain:
            if not settings.is_bare:
                await _serve_with_clients(self.app, record, receive, send)
                return
            scope[BEGAN] = settings.begin_scope(scope)
        # What `_Exchange(receive, send)` would do, if it had an `__init__`.
        exchange = _Exchange()
        exchange.receive_of_server = receive
        exchange.send_of_server = send
        token = begin_plain(record)
        app = self.app  # calling an attribute of an instance costs 250 instructions more
        try:
            await app(scope, exchange.receive, exchange.send)
            # The checker takes the state for what it was set to above; the app has run since then.
            if record.state is not None:
                await complete(record)  # type: ignore[unreachable]
        except Exception as error:
            await fail(record, error)
            raise
        except SystemExit as error:
            fail_or_exit_now(record, error)
            raise
        finally:
            try:
                reset(token)
            except ValueError:
                leave(token)
            end_record(record)

    async def _serve_inside(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a mounted app, or one that is wrapped twice: the record is there already."""
        async with serving_inside(self.own, record, scope):
            if record.settings.recording:
                send = _RecordingExchange(receive, send, record).send
            await self.app(scope, receive, send)


async def _pass_on(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a lifespan's messages as they are, and send what waits before the server ends.

    Some servers, uvicorn among them, end as soon as they are told that the app is through.
    """

    async def send_flushed(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await flush_at_end()
        await send(message)

    is_lifespan = scope["type"] == "lifespan"
    if is_lifespan:
        _watch_loaded()  # what the app has imported since its middleware was built
    if is_lifespan and capture.reports_unhandled:
        from usercontext.core.unhandled import watch_loops  # loaded already

        watch_loops()  # a server may have brought its own only after `init()`
    flushes = is_lifespan and default().client is not None
    await app(scope, receive, send_flushed if flushes else send)
    if is_lifespan:
        # What an app that calls `init()` as it starts has waiting, too.
        await flush_at_end()


def _watch_loaded() -> None:
    """Look after libraries whose messages are served in another request's context."""
    if "mcp.server" in sys.modules:
        from usercontext.core.messages import watch_messages  # only a server of MCP needs it

        watch_messages()


def _mark_awaitable(function: Any) -> None:
    """Say of a plain function that its result is awaited, as Python has no word for it.

    asgiref's `async_to_sync`, under Channels' sync consumers, warns of a `send` without the mark.
    """
    if sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction

        markcoroutinefunction(function)
        return
    from asyncio import coroutines

    function._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]


class _Exchange:
    """One request's exchange with its server, kept apart from the request's user.

    Servers start the next request, or a callback that lives as long as the connection, in the
    context in which `receive()` or the last `send()` was called (python/cpython#140947,
    Kludex/uvicorn#2167): there our variable holds nothing.
    """

    # Filled by whoever makes one, as an `__init__` costs 700 instructions.
    __slots__ = ("receive_of_server", "send_of_server")

    receive_of_server: Receive
    send_of_server: Send

    async def receive(self) -> Message:
        token = enter(None)
        try:
            receive = self.receive_of_server
            return await receive()
        finally:
            leave(token)

    def send(self, message: Message) -> Awaitable[None]:
        more = _LAST.get(message["type"])
        if more is None or message.get(more):
            send = self.send_of_server
            return send(message)
        return self._send_last(message)

    async def _send_last(self, message: Message) -> None:
        token = enter(None)
        send = self.send_of_server
        try:
            await send(message)
        finally:
            try:
                reset(token)
            except ValueError:
                leave(token)


class _RecordingExchange(_Exchange):
    """An exchange that hands clients the user at the latest when the response starts."""

    __slots__ = ("_record",)

    def __init__(self, receive: Receive, send: Send, record: RequestRecord) -> None:
        self.receive_of_server = receive
        self.send_of_server = send
        self._record = record

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in ("http.response.start", "websocket.accept"):
            return self._start(message)
        return _Exchange.send(self, message)  # `super()` costs as much as all of what it calls

    async def _start(self, message: Message) -> None:
        await started(self._record)
        await self.send_of_server(message)


async def _serve_with_clients(
    app: ASGIApp, record: RequestRecord, receive: Receive, send: Send
) -> None:
    if record.settings.flushes:
        await _serve_flushing(app, record, receive, send)
        return
    scope: Any = record.source
    exchange = _RecordingExchange(receive, send, record)
    async with Serving(record):
        await app(scope, exchange.receive, exchange.send)


class _FlushingExchange(_RecordingExchange):
    """An exchange that sends what was reported before it lets the response end.

    A framework answers an error before it raises it again, and only then do we see it: the end of
    such a response is held back until the app is through, or waits for the client.
    """

    __slots__ = ("_held", "_is_failure")

    def __init__(self, receive: Receive, send: Send, record: RequestRecord) -> None:
        _RecordingExchange.__init__(self, receive, send, record)
        self._held: Message | None = None
        self._is_failure = False

    async def receive(self) -> Message:
        await self.release()
        return await _RecordingExchange.receive(self)

    def send(self, message: Message) -> Awaitable[None]:
        self._is_failure = self._is_failure or message.get("status", 0) >= 500
        more = _LAST.get(message["type"])
        if more is None or message.get(more):
            return _RecordingExchange.send(self, message)
        return self._hold(message) if self._is_failure else self._end(message)

    async def release(self) -> None:
        """End a response that was held back."""
        message, self._held = self._held, None
        if message is not None:
            await self._send_last(message)

    async def _hold(self, message: Message) -> None:
        self._held = message

    async def _end(self, message: Message) -> None:
        await complete(self._record)
        await flush_response(self._record)
        await self._send_last(message)


async def _serve_flushing(
    app: ASGIApp, record: RequestRecord, receive: Receive, send: Send
) -> None:
    scope: Any = record.source
    exchange = _FlushingExchange(receive, send, record)
    try:
        async with Serving(record):
            await app(scope, exchange.receive, exchange.send)
    except Exception:
        await exchange.release()
        raise
    await exchange.release()
