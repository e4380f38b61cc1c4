"""The applications of `overhead_frameworks.py`: in each framework the same one endpoint.

Every framework stands in a function of its own, which imports it, so that what is not installed
is one line of the table that says so. Each takes the variant that is measured:

    bare        the framework's app as it is
    middleware  `UserContextMiddleware` of `usercontext.asgi` or `.wsgi` around that app
    module      what `usercontext.frameworks` has for it
    sentry      sentry-sdk's integration for it, with nothing to report
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from pydoc import locate
from typing import TYPE_CHECKING, Any

from overhead_rows import HEADERS, Row, asgi_app, wsgi_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["FRAMEWORKS", "ROWS", "VARIANTS"]

VARIANTS = ("bare", "middleware", "module", "sentry")
_DSN = "http://0123456789abcdef0123456789abcdef@127.0.0.1:9/1"


class NotMeasuredError(ImportError):
    """Raised where a framework has no such variant."""


def _asgi(app: Any) -> Any:
    from usercontext.asgi import UserContextMiddleware

    return UserContextMiddleware(app)


def _wsgi(app: Any) -> Any:
    from usercontext.wsgi import UserContextMiddleware

    return UserContextMiddleware(app)


def _sentry(*names: str) -> None:
    """Set sentry-sdk up with some of its integrations, `module.Class`, and no other."""
    import sentry_sdk

    kinds: list[Any] = [locate(f"sentry_sdk.integrations.{name}") for name in names]
    sentry_sdk.init(_DSN, auto_enabling_integrations=False, integrations=[kind() for kind in kinds])


class _Started:
    """An app that is started before its first request, as a server would do."""

    def __init__(self, app: Any, start: Callable[[Any], Awaitable[object]]) -> None:
        self._app = app
        self._start: Callable[[Any], Awaitable[object]] | None = start

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._start is not None:
            await self._start(self._app)
            self._start = None
        await self._app(scope, receive, send)


class _Waiting:
    """An app whose server has one message for it, and then waits for the client to go."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        messages = [await receive()]

        async def waiting() -> Any:
            return messages.pop() if messages else await asyncio.Future()

        await self._app(scope, waiting, send)


async def _lifespan(app: Any) -> None:
    """Start an app by ASGI's lifespan messages, and leave it running."""
    started = asyncio.Event()

    async def receive() -> dict[str, str]:
        if not started.is_set():
            return {"type": "lifespan.startup"}
        return await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] != "lifespan.startup.complete":
            raise RuntimeError(f"the app has not started: {message}")
        started.set()

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    _running.append(asyncio.ensure_future(app(scope, receive, send)))
    await started.wait()


_running: list[Any] = []  # the loop itself holds its tasks weakly


# --- ASGI -------------------------------------------------------------------------------------


def plain_asgi(variant: str) -> Any:
    """Build the trivial app of the other tables: what the middleware costs by itself."""
    if variant in ("module", "sentry"):
        raise NotMeasuredError("no framework")
    return _asgi(asgi_app()) if variant == "middleware" else asgi_app()


def _starlette_app(variant: str, app: Any) -> Any:
    if variant == "module":
        from usercontext.frameworks.starlette import UserContext

        UserContext(app)
    return _asgi(app) if variant == "middleware" else app


def starlette(variant: str) -> Any:
    """Build a Starlette app."""
    if variant == "sentry":
        _sentry("starlette.StarletteIntegration")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def order(_request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return _starlette_app(variant, Starlette(routes=[Route("/orders/{number:int}", order)]))


def fastapi(variant: str) -> Any:
    """Build a FastAPI app."""
    if variant == "sentry":
        _sentry("starlette.StarletteIntegration", "fastapi.FastApiIntegration")
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    async def order(number: int) -> str:
        return "ok"

    app.get("/orders/{number}", response_class=PlainTextResponse)(order)
    return _starlette_app(variant, app)


def quart(variant: str) -> Any:
    """Build a Quart app."""
    if variant == "sentry":
        _sentry("quart.QuartIntegration")
    from quart import Quart

    app = Quart(__name__)

    async def order(number: int) -> str:
        return "ok"

    app.add_url_rule("/orders/<int:number>", view_func=order)
    if variant == "module":
        from usercontext.frameworks.quart import UserContext

        UserContext(app)
    return _Waiting(_asgi(app) if variant == "middleware" else app)


def falcon_asgi(variant: str) -> Any:
    """Build an ASGI app of Falcon."""
    if variant == "sentry":
        raise NotMeasuredError("no integration")
    import falcon.asgi

    class Order:
        async def on_get(self, _request: Any, response: Any, number: int) -> None:
            response.text = "ok"

    app = falcon.asgi.App()
    app.add_route("/orders/{number:int}", Order())
    return _falcon_app(variant, app, _asgi)


def _falcon_app(variant: str, app: Any, around: Callable[[Any], Any]) -> Any:
    if variant == "module":
        from usercontext.frameworks.falcon import UserContext

        return UserContext(app)
    return around(app) if variant == "middleware" else app


def litestar(variant: str) -> Any:
    """Build a Litestar app that its server starts."""
    return _Started(litestar_unstarted(variant), _lifespan)


def litestar_unstarted(variant: str) -> Any:
    """Build a Litestar app to which no lifespan is sent."""
    if variant == "sentry":
        _sentry("litestar.LitestarIntegration")
    from litestar import Litestar, get

    @get("/orders/{number:int}", media_type="text/plain")
    async def order(number: int) -> str:
        return "ok"

    plugins = []
    if variant == "module":
        from usercontext.frameworks.litestar import UserContext

        plugins = [UserContext()]
    order.signature_namespace = {"int": int, "str": str}  # type: ignore[attr-defined]
    app = Litestar([order], plugins=plugins, logging_config=None, openapi_config=None)
    return _asgi(app) if variant == "middleware" else app


def blacksheep(variant: str) -> Any:
    """Build a BlackSheep app."""
    if variant == "sentry":
        raise NotMeasuredError("no integration")
    from blacksheep import Application, Response, text

    app = Application()

    async def order(number: int) -> Response:
        return text("ok")

    order.__annotations__ = {"number": int, "return": Response}
    app.router.get("/orders/{number}")(order)
    if variant == "module":
        from usercontext.frameworks.blacksheep import UserContext

        UserContext(app)
    return _Started(_asgi(app) if variant == "middleware" else app, lambda _: app.start())


def connexion(variant: str) -> Any:
    """Build an async app of Connexion."""
    if variant == "sentry":
        raise NotMeasuredError("no integration")
    from connexion import AsyncApp

    async def order(number: int) -> Any:
        return "ok", 200, {"Content-Type": "text/plain"}

    operation = {
        "operationId": "order",
        "parameters": [
            {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}
        ],
        "responses": {"200": {"description": "", "content": {"text/plain": {}}}},
    }
    app = AsyncApp(__name__)
    app.add_api(
        {
            "openapi": "3.0.0",
            "info": {"title": "Shop", "version": "1"},
            "paths": {"/orders/{number}": {"get": operation}},
        },
        resolver=_connexion_resolver(order),
    )
    if variant == "module":
        from usercontext.frameworks.connexion import UserContext

        UserContext(app)
    return _asgi(app) if variant == "middleware" else app


def _connexion_resolver(function: Any) -> Any:
    from connexion.resolver import Resolver

    return Resolver(lambda _name: function)


def django_asgi(variant: str) -> Any:
    """Build an ASGI app of Django."""
    _configure_django(variant, is_async=True)
    from django.core.asgi import get_asgi_application

    app = get_asgi_application()
    return _Waiting(_asgi(app) if variant == "middleware" else app)


def channels(variant: str) -> Any:
    """Build an HTTP consumer of Channels."""
    _configure_django("sentry" if variant == "sentry" else "bare", is_async=True)
    from channels.generic.http import AsyncHttpConsumer

    class Order(AsyncHttpConsumer):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"ok")

    app: Any = Order.as_asgi()
    if variant == "module":
        from usercontext.frameworks.channels import UserContext

        app = UserContext(app)
    return _asgi(app) if variant == "middleware" else app


# --- WSGI -------------------------------------------------------------------------------------


def plain_wsgi(variant: str) -> Any:
    """Build the trivial app of the other tables: what the middleware costs by itself."""
    if variant in ("module", "sentry"):
        raise NotMeasuredError("no framework")
    return _wsgi(wsgi_app()) if variant == "middleware" else wsgi_app()


def flask(variant: str) -> Any:
    """Build a Flask app."""
    if variant == "sentry":
        _sentry("flask.FlaskIntegration")
    from flask import Flask

    app = Flask(__name__)
    app.add_url_rule("/orders/<int:number>", view_func=lambda number: "ok", endpoint="order")
    if variant == "module":
        from usercontext.frameworks.flask import UserContext

        UserContext(app)
    return _wsgi(app) if variant == "middleware" else app


def falcon(variant: str) -> Any:
    """Build a WSGI app of Falcon."""
    if variant == "sentry":
        _sentry("falcon.FalconIntegration")
    import falcon

    class Order:
        def on_get(self, _request: Any, response: Any, number: int) -> None:
            response.text = "ok"

    app = falcon.App()
    app.add_route("/orders/{number:int}", Order())
    return _falcon_app(variant, app, _wsgi)


def bottle(variant: str) -> Any:
    """Build a Bottle app."""
    if variant == "sentry":
        _sentry("bottle.BottleIntegration")
    from bottle import Bottle

    app = Bottle()
    app.route("/orders/<number:int>", callback=lambda number: "ok")
    if variant == "module":
        from usercontext.frameworks.bottle import UserContext

        app.install(UserContext())
    return _wsgi(app) if variant == "middleware" else app


def pyramid(variant: str) -> Any:
    """Build a Pyramid app."""
    if variant == "sentry":
        _sentry("pyramid.PyramidIntegration")
    from pyramid.config import Configurator
    from pyramid.response import Response

    config = Configurator()
    if variant == "module":
        config.include("usercontext.frameworks.pyramid")
    config.add_route("order", "/orders/{number}")
    config.add_view(lambda request: Response("ok"), route_name="order")
    app = config.make_wsgi_app()
    return _wsgi(app) if variant == "middleware" else app


def django(variant: str) -> Any:
    """Build a WSGI app of Django."""
    _configure_django(variant, is_async=False)
    from django.core.wsgi import get_wsgi_application

    app = get_wsgi_application()
    served = _wsgi(app) if variant == "middleware" else app

    def serve(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"] = body  # Django wraps it, read or not
        return served(environ, start_response)

    body = BytesIO()
    return serve


def _configure_django(variant: str, *, is_async: bool) -> None:
    if variant == "sentry":
        _sentry("django.DjangoIntegration")
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    def order(_request: Any, number: int) -> HttpResponse:
        return HttpResponse("ok")

    async def order_async(_request: Any, number: int) -> HttpResponse:
        return HttpResponse("ok")

    class urls:  # noqa: N801 - stands for a module
        urlpatterns = (path("orders/<int:number>", order_async if is_async else order),)

    ours = ["usercontext.frameworks.django.UserContextMiddleware"]
    settings.configure(
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="0" * 50,
        MIDDLEWARE=ours if variant == "module" else [],
        USERCONTEXT={},
        LOGGING_CONFIG=None,
    )
    django.setup()


# --- servers of their own ---------------------------------------------------------------------


class _Transport(asyncio.Transport):
    """The client's end of a connection: it tells when the response has come."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.2", 51234), "sockname": ("10.0.0.1", 8000)})
        self.answered: asyncio.Future[None] | None = None

    def write(self, data: Any) -> None:
        """Take a part of the response, whose last one is the body."""
        if bytes(data).endswith(b"ok") and self.answered is not None:
            self.answered.set_result(None)
            self.answered = None

    def writelines(self, parts: Any) -> None:
        """Take some parts of the response."""
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        """Return False: the connection is kept."""
        return False

    def close(self) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Return 0: all is sent."""
        return 0


_REQUEST = b"\r\n".join(
    [
        b"GET /orders/17?page=2&sort=date HTTP/1.1",
        *(name + b": " + value for name, value in HEADERS),
        b"",
        b"",
    ]
)


class _Connection:
    """Requests over one connection to a server's protocol, in the shape of an ASGI app."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._protocol: Any = None
        self._transport: Any = None

    async def __call__(self, _scope: Any, _receive: Any, _send: Any) -> None:
        if self._protocol is None:
            self._transport = _Transport()
            self._protocol = await self._connect()
            self._protocol.connection_made(self._transport)
        answered = self._transport.answered = asyncio.get_running_loop().create_future()
        self._protocol.data_received(_REQUEST)
        await answered
        await asyncio.sleep(0)  # let the server end the request


def _no_middleware(variant: str) -> None:
    if variant == "middleware":
        raise NotMeasuredError("neither ASGI nor WSGI")


def aiohttp(variant: str) -> Any:
    """Build an aiohttp app on the protocol of its own server."""
    _no_middleware(variant)
    if variant == "sentry":
        _sentry("aiohttp.AioHttpIntegration")
    from aiohttp import web

    async def order(_request: Any) -> web.Response:
        return web.Response(text="ok")

    async def connect() -> Any:
        app = web.Application()
        app.router.add_get("/orders/{number:[0-9]+}", order)
        if variant == "module":
            from usercontext.frameworks.aiohttp import setup

            setup(app)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        assert runner.server is not None
        return runner.server()

    return _Connection(connect)


def sanic(variant: str) -> Any:
    """Build a Sanic app on the protocol of its own server."""
    _no_middleware(variant)
    app = _sanic_app(variant)

    async def connect() -> Any:
        from sanic.models.server_types import Signal
        from sanic.server import HttpProtocol

        await app._startup()
        loop = asyncio.get_running_loop()
        return HttpProtocol(
            loop=loop, app=app, signal=Signal(), connections=set(), state={}, unix=None
        )

    return _Connection(connect)


def sanic_asgi(variant: str) -> Any:
    """Build a Sanic app that a server of ASGI runs."""
    app = _sanic_app(variant)
    return _Started(_asgi(app) if variant == "middleware" else app, _lifespan)


def _sanic_app(variant: str) -> Any:
    if variant == "sentry":
        _sentry("sanic.SanicIntegration")
    from sanic import Sanic, text

    app: Any = Sanic("benchmark", configure_logging=False)
    app.config.ACCESS_LOG = False
    app.config.TOUCHUP = True

    async def order(_request: Any, number: int) -> Any:
        return text("ok")

    app.add_route(order, "/orders/<number:int>")
    if variant == "module":
        from usercontext.frameworks.sanic import UserContext

        UserContext(app)
    return app


def tornado(variant: str) -> Any:
    """Build a Tornado application, called as its own server calls it."""
    _no_middleware(variant)
    if variant == "sentry":
        _sentry("tornado.TornadoIntegration")
    from tornado.httputil import HTTPHeaders, HTTPServerRequest
    from tornado.web import Application, RequestHandler

    class Order(RequestHandler):
        async def get(self, number: str) -> None:
            self.write("ok")

    application = Application([(r"/orders/([0-9]+)", Order)], log_function=lambda _: None)
    if variant == "module":
        from usercontext.frameworks.tornado import UserContext

        UserContext(application)
    headers = HTTPHeaders({name.decode(): value.decode() for name, value in HEADERS})

    async def serve(_scope: Any, _receive: Any, _send: Any) -> None:
        connection: Any = _TornadoConnection()
        request = HTTPServerRequest(
            method="GET",
            uri="/orders/17?page=2&sort=date",
            version="HTTP/1.1",
            headers=headers,
            connection=connection,
        )
        application(request)
        await connection.finished
        await asyncio.sleep(0)  # let the handler's coroutine end

    return serve


class _TornadoConnection:
    """The connection of one request to Tornado, which takes what is written."""

    class context:  # noqa: N801 - Tornado reads the peer from it
        remote_ip = "10.0.0.2"
        protocol = "http"

    def __init__(self) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set_close_callback(self, callback: Any) -> None:
        """Do nothing."""

    def write_headers(self, _start: Any, _headers: Any, _chunk: bytes = b"") -> Any:
        """Take the response's start, and its body."""
        return _done()

    def write(self, _chunk: bytes) -> Any:
        """Take a part of the body."""
        return _done()

    def finish(self) -> None:
        """End the response."""
        self.finished.set_result(None)


def _done() -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


# --- the table --------------------------------------------------------------------------------

#: Name, distribution, and how it is driven: by ASGI, by WSGI.
FRAMEWORKS: tuple[tuple[str, str, str, Callable[[str], Any]], ...] = (
    ("plain", "", "asgi", plain_asgi),
    ("starlette", "starlette", "asgi", starlette),
    ("fastapi", "fastapi", "asgi", fastapi),
    ("quart", "quart", "asgi", quart),
    ("litestar", "litestar", "asgi", litestar),
    ("litestar-unstarted", "litestar", "asgi", litestar_unstarted),
    ("blacksheep", "blacksheep", "asgi", blacksheep),
    ("falcon-asgi", "falcon", "asgi", falcon_asgi),
    ("connexion", "connexion", "asgi", connexion),
    ("django-asgi", "django", "asgi", django_asgi),
    ("channels", "channels", "asgi", channels),
    ("sanic-asgi", "sanic", "asgi", sanic_asgi),
    ("sanic", "sanic", "asgi", sanic),
    ("aiohttp", "aiohttp", "asgi", aiohttp),
    ("tornado", "tornado", "asgi", tornado),
    ("plain", "", "wsgi", plain_wsgi),
    ("flask", "flask", "wsgi", flask),
    ("django", "django", "wsgi", django),
    ("pyramid", "pyramid", "wsgi", pyramid),
    ("falcon", "falcon", "wsgi", falcon),
    ("bottle", "bottle", "wsgi", bottle),
)


def _rows() -> Iterator[Row]:
    for name, distribution, interface, build in FRAMEWORKS:
        for variant in VARIANTS:

            def built(build: Any = build, variant: str = variant) -> Any:
                app = build(variant)
                return lambda _plain: app, None

            yield Row(f"{interface}.{name}.{variant}", "", built, peer=distribution)


ROWS = tuple(_rows())
