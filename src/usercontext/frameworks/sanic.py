"""Sanic: a record around each request that its own server or an ASGI server hands to the app."""

from __future__ import annotations

from operator import attrgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import unquote

from usercontext import asgi
from usercontext.core.context import configure, configure_joined
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import (
    RequestScope,
    Serving,
    complete,
    fail,
    flush_at_end,
    serving_inside,
    started,
)
from usercontext.core.record import KEY, RequestRecord
from usercontext.frameworks.base import (
    check_app,
    check_first,
    check_waiting,
    identity_of,
    no_app,
    open_record_in,
    record_in,
)
from usercontext.optional import importing

with importing("sanic", "sanic", purpose="usercontext.frameworks.sanic"):
    from sanic import Sanic
    from sanic.exceptions import SanicException
    from sanic.http import Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sanic import Request

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.types import Receive, Scope, Send

__all__ = ["UserContext", "request_user"]


def _held(source: Any, _request: object) -> object:
    request: Any = source.request if isinstance(source, RequestScope) else None
    return NOT_YET if request is None else getattr(request.ctx, "user", NOT_YET)


def _places(source: Any, _request: object) -> Places:
    return [(vars(source.request.ctx), "user")]


@follows(_held, _places)
def request_user(request: Request) -> object:
    """Return who the app's own middleware put in `request.ctx.user`: a ready resolver.

    Until that has happened the question stays open, and later what stands there is followed. Of a
    mapping only the four fields and `name` are taken, as of an object.
    """
    return identity_of(getattr(request.ctx, "user", NOT_YET))


class UserContext:
    """Give every request and websocket of a Sanic app a user of its own, and report its errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It goes around `handle_request`, whichever server runs the app:
    a stream, middlewares and exception handlers are inside.

    Args:
        app: the application; None where `init_app` is called later.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with Sanic's `Request`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(
        self, app: Sanic[Any, Any] | None = None, **options: Unpack[ContextOptions]
    ) -> None:
        self._own = configure(make_request=attrgetter("request"), **options)
        self._joined = configure_joined(self._own)
        # Over ASGI the resolver waits for Sanic's own request, which is made inside.
        early: Any = {k: v for k, v in options.items() if k not in ("resolver", "resolve")}
        self._middleware = asgi.UserContextMiddleware(no_app, **early)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Sanic[Any, Any]) -> None:
        """Go around all requests of an app, and listen for its errors.

        Raises:
            ConfigurationError: it is not a Sanic app, has started, or has a `UserContext`.
        """
        _check(app)
        app.ctx.usercontext = self
        # Sanic lets nothing be set on an app; a class of its own is what it allows.
        kind: Any = type(app)
        app.ctx.usercontext_asgi = self._middleware.around(MethodType(kind.__call__, app))
        app.__class__ = _around(kind)
        app.add_signal(_report, "http.lifecycle.exception")
        app.add_signal(_report, "websocket.handler.exception")
        app.add_signal(_push_at_websocket, "websocket.handler.before")
        app.register_middleware(_push_at_start, "response")
        app.register_listener(_flush, "after_server_stop")

    async def _serve(self, request: Request, handle: Callable[[Request], Awaitable[None]]) -> None:
        source = RequestScope(request, _PARTS)
        found = open_record_in(request.scope) if request.app.asgi else None
        if found is not None:
            vars(request.ctx)[KEY] = found
            async with serving_inside(self._own, found, source):
                await handle(request)
            return
        record = RequestRecord.of(source, self._joined.joined)
        vars(request.ctx)[KEY] = record
        async with Serving(record, _is_error):
            await handle(request)


def _around(kind: type[Sanic[Any, Any]]) -> type[Sanic[Any, Any]]:
    """Return a class of apps that serves its requests by the app's `UserContext`."""

    class Served(kind):  # type: ignore[valid-type, misc]
        async def handle_request(self, request: Request) -> None:
            await self.ctx.usercontext._serve(request, super().handle_request)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.ctx.usercontext_asgi(scope, receive, send)

    Served.__name__, Served.__qualname__ = kind.__name__, kind.__qualname__
    return Served


def _check(app: Sanic[Any, Any]) -> None:
    hint = 'write UserContext(app), where app = Sanic("Shop"), which serves its blueprints, too'
    check_app(app, Sanic, "a Sanic app", hint)
    name = f"app {app.name!r}"
    check_first(hasattr(app.ctx, "usercontext"), app=name)
    hint = "write UserContext(app) where the app is made, before it runs"
    check_waiting(app.state.is_started, app=name, hint=hint)


async def _report(request: Request, exception: BaseException, **_context: Any) -> None:
    """Report an error that Sanic answers itself, while its request is still there."""
    record = record_in(vars(request.ctx))
    if record is None or not isinstance(exception, Exception):
        return
    if _is_error(exception) and not _is_answered(request, exception):
        await fail(record, exception)


def _is_error(error: Exception) -> bool:
    """Tell errors from answers: what Sanic would not log is one by which it is told the answer."""
    if not isinstance(error, SanicException):
        return True
    return not error.quiet and error.status_code >= 500


def _is_answered(request: Request, error: Exception) -> bool:
    """Return whether an exception handler of the app makes the response to an error.

    In the middle of a response none is sent any more.
    """
    if request.stream is not None and request.stream.stage is not Stage.HANDLER:
        return False
    return request.app.error_handler.lookup(error, request.name) is not None


async def _push_at_start(request: Request, _response: object) -> None:
    record = record_in(vars(request.ctx))
    if record is None:
        return
    if record.settings.recording:
        await started(record)
    if record.state is not None:
        # A client that leaves with its answer has Sanic cancel what is left to do.
        await complete(record)


async def _push_at_websocket(request: Request, **_context: Any) -> None:
    await _push_at_start(request, None)


async def _flush(_app: object) -> None:
    await flush_at_end()


def _client_of(request: Request) -> tuple[str, int] | None:
    peer = request.conn_info
    # A unix socket's peer has an empty address.
    return (peer.client_ip, peer.client_port) if peer is not None and peer.client_ip else None


def _server_of(request: Request) -> Any:
    name = None if request.conn_info is None else request.conn_info.sockname
    return name[:2] if isinstance(name, tuple) else None


def _headers_of(request: Request) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("latin-1", "replace"), value.encode("utf-8", "surrogateescape"))
        for name, value in request.headers.items()
    ]


_PARTS: dict[str, Callable[[Request], Any]] = {
    "type": lambda _: "http",
    "http_version": lambda request: request.version,
    "method": lambda request: request.method,
    "scheme": lambda request: request.scheme,
    "path": lambda request: unquote(request.path),
    "query_string": lambda request: request.query_string.encode("utf-8", "surrogateescape"),
    "headers": _headers_of,
    "client": _client_of,
    "server": _server_of,
}
