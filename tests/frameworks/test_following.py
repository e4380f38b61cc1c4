"""Every ready resolver follows its framework's own user, whoever asked before, and how."""

from __future__ import annotations

import asyncio
import itertools
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import asgi_call, environ_of, scope_of, wsgi_request
from usercontext import asgi, capture_message, get_user
from usercontext.clients.logging import UserFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.testing import RecordingClient

    # Hands the framework a user by name, or None to log out.
    Become = Callable[[str | None], object]
    # Serves one request in whose endpoint the function is called.
    Serve = Callable[[Callable[[Become], object]], object]


class Account:
    """A user as an app has them."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.id = name


def account_of(name: str | None) -> Account | None:
    """Return somebody's account."""
    return None if name is None else Account(name)


def line(*, resolve: bool) -> str | None:
    """Write a log line; return the id that it names."""
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "paid", None, None)
    UserFilter(resolve=resolve).filter(record)
    named: str | None = record.__dict__["user_id"]
    return named


# --- the frameworks -----------------------------------------------------------------------------


def over_asgi(app: Any, path: str = "/") -> None:
    """Serve one request of an ASGI app that may let its error pass."""
    scope = {**scope_of(), "path": path, "raw_path": path.encode()}
    try:
        asyncio.run(asgi_call(app, scope))
    except KeyError:
        return


def serve_starlette(play: Callable[[Become], object]) -> None:
    """Starlette's `scope["user"]`."""
    starlette = pytest.importorskip("starlette.applications")
    from starlette.routing import Route

    from usercontext.frameworks.starlette import UserContext, request_user

    async def go(request: Any) -> None:
        play(lambda name: request.scope.update(user=account_of(name)))

    app = starlette.Starlette(routes=[Route("/", go)])
    UserContext(app, resolver=request_user)
    over_asgi(app)


def serve_fastapi(play: Callable[[Become], object]) -> None:
    """The `request.state.user` of many an app of FastAPI."""
    fastapi = pytest.importorskip("fastapi")
    from usercontext.frameworks.fastapi import UserContext, request_user

    app = fastapi.FastAPI()

    async def go(request: Any) -> None:
        play(lambda name: setattr(request.state, "user", account_of(name)))

    go.__annotations__["request"] = fastapi.Request
    app.get("/")(go)
    UserContext(app, resolver=request_user)
    over_asgi(app)


def serve_flask(play: Callable[[Become], object]) -> None:
    """Flask-Login."""
    flask = pytest.importorskip("flask")
    flask_login = pytest.importorskip("flask_login")
    from usercontext.frameworks.flask import UserContext, request_user

    class Login(flask_login.UserMixin, Account):  # type: ignore[misc, name-defined]
        """A model of Flask-Login's."""

    def become(name: str | None) -> None:
        if name is None:
            flask_login.logout_user()
        else:
            flask_login.login_user(Login(name))

    app = flask.Flask("shop")
    app.secret_key = "change me"
    flask_login.LoginManager(app).user_loader(Login)
    app.get("/")(lambda: play(become))
    UserContext(app, resolver=request_user)
    app.test_client().get("/")


def serve_quart(play: Callable[[Become], object]) -> None:
    """Quart-Auth."""
    quart = pytest.importorskip("quart")
    quart_auth = pytest.importorskip("quart_auth")
    from usercontext.frameworks.quart import UserContext, request_user

    def become(name: str | None) -> None:
        if name is None:
            quart_auth.logout_user()
        else:
            quart_auth.login_user(quart_auth.AuthUser(name))

    app = quart.Quart("shop")
    app.secret_key = "change me"
    quart_auth.QuartAuth(app)

    async def go() -> None:
        play(become)

    app.get("/")(go)
    UserContext(app, resolver=request_user)
    asyncio.run(app.test_client().get("/"))


def serve_litestar(play: Callable[[Become], object]) -> None:
    """Litestar's `scope["user"]`."""
    litestar = pytest.importorskip("litestar")
    from usercontext.frameworks.litestar import UserContext, request_user

    async def go(scope: Any, receive: Any, send: Any) -> None:
        play(lambda name: scope.update(user=account_of(name)))

    context = UserContext(resolver=request_user)
    app = litestar.Litestar(
        [litestar.asgi("/", copy_scope=False)(go)], plugins=[context], logging_config=None
    )
    over_asgi(app)


class Resource:
    """A resource of Falcon's."""

    def __init__(self, play: Callable[[Become], object]) -> None:
        self.play = play

    def on_get(self, req: Any, _resp: Any) -> None:
        """Serve a request over WSGI."""
        self.play(lambda name: setattr(req.context, "user", account_of(name)))


class AsyncResource(Resource):
    """The same over ASGI."""

    async def on_get(self, req: Any, resp: Any) -> None:  # type: ignore[override]
        """Serve a request over ASGI."""
        super().on_get(req, resp)


def serve_falcon(play: Callable[[Become], object]) -> None:
    """Falcon's `req.context.user` over WSGI."""
    falcon = pytest.importorskip("falcon")
    from usercontext.frameworks.falcon import UserContext, request_user

    app = falcon.App()
    app.add_route("/cart", Resource(play))
    wsgi_request(UserContext(app, resolver=request_user), environ_of())


def serve_falcon_asgi(play: Callable[[Become], object]) -> None:
    """Falcon's `req.context.user` over ASGI."""
    falcon = pytest.importorskip("falcon.asgi")
    from usercontext.frameworks.falcon import UserContext, request_user

    app = falcon.App()
    app.add_route("/", AsyncResource(play))
    over_asgi(UserContext(app, resolver=request_user))


class CachingPolicy:
    """A security policy with a cache, as Pyramid's documentation writes it."""

    def __init__(self, cache: Any) -> None:
        self.identity_cache = cache

    def identity(self, request: Any) -> Any:
        """Return who it is, found once."""
        return self.identity_cache.get_or_create(request, lambda _: None)

    def authenticated_userid(self, request: Any) -> Any:
        """Return the id of who it is."""
        return getattr(self.identity(request), "id", None)

    def permits(self, *_: Any) -> bool:
        """Let everybody in."""
        return True


class SessionPolicy(CachingPolicy):
    """A security policy of sessions, which makes an identity at each question."""

    def identity(self, request: Any) -> Any:
        """Return who it is."""
        return account_of(request.session.get("id"))

    def remember(self, request: Any, userid: str, **_: Any) -> list[Any]:
        """Log somebody in."""
        request.session["id"] = userid
        return []

    def forget(self, request: Any, **_: Any) -> list[Any]:
        """Log out."""
        request.session.pop("id", None)
        return []


def serve_pyramid(
    play: Callable[[Become], object],
    kind: type[CachingPolicy] = CachingPolicy,
    become: Callable[[Any, Any, str | None], object] | None = None,
) -> None:
    """Pyramid's `RequestLocalCache`."""
    pyramid = pytest.importorskip("pyramid.config")
    from pyramid.request import RequestLocalCache
    from pyramid.session import SignedCookieSessionFactory

    policy = kind(RequestLocalCache())

    def put(policy: Any, request: Any, name: str | None) -> None:
        if name is None:
            policy.identity_cache.clear(request)
        else:
            policy.identity_cache.set(request, account_of(name))

    def view(request: Any) -> None:
        play(lambda name: (become or put)(policy, request, name))

    config = pyramid.Configurator(session_factory=SignedCookieSessionFactory("change me"))
    config.set_security_policy(policy)
    config.include("usercontext.frameworks.pyramid")
    config.add_route("cart", "/cart")
    config.add_view(view, route_name="cart")
    with pytest.raises(KeyError):
        wsgi_request(config.make_wsgi_app(), environ_of())


def serve_pyramid_session(play: Callable[[Become], object]) -> None:
    """Pyramid's `remember()` and `forget()`."""

    def become(_policy: Any, request: Any, name: str | None) -> None:
        from pyramid.security import forget, remember

        if name is None:
            forget(request)
        else:
            remember(request, name)

    serve_pyramid(play, SessionPolicy, become)


def serve_aiohttp(play: Callable[[Become], object]) -> None:
    """The `request["user"]` of aiohttp."""
    pytest.importorskip("aiohttp")
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from usercontext.frameworks.aiohttp import request_user, setup

    async def go(request: web.Request) -> web.Response:
        def become(name: str | None) -> None:
            with warnings.catch_warnings(action="ignore"):  # of keys that are text
                request["user"] = account_of(name)

        play(become)
        return web.Response()

    async def talk() -> None:
        app = web.Application()
        app.router.add_get("/", go)
        setup(app, resolver=request_user)
        async with TestClient(TestServer(app)) as client:
            await client.get("/")

    asyncio.run(talk())


numbers = itertools.count()


def serve_sanic(play: Callable[[Become], object]) -> None:
    """Sanic's `request.ctx.user`."""
    sanic = pytest.importorskip("sanic")
    from usercontext.frameworks.sanic import UserContext, request_user

    sanic.Sanic.test_mode = True
    app: Any = sanic.Sanic(f"Follow{next(numbers)}", configure_logging=False)

    async def go(request: Any) -> None:
        play(lambda name: setattr(request.ctx, "user", account_of(name)))

    async def talk() -> None:
        app.asgi = True
        await app._startup()
        await asgi_call(app, {**scope_of(), "path": "/", "raw_path": b"/"})

    app.add_route(go, "/")
    UserContext(app, resolver=request_user)
    asyncio.run(talk())


def serve_tornado(play: Callable[[Become], object]) -> None:
    """Tornado's `current_user`."""
    pytest.importorskip("tornado")
    from tornado.httpclient import AsyncHTTPClient
    from tornado.httpserver import HTTPServer
    from tornado.testing import bind_unused_port
    from tornado.web import Application, RequestHandler

    from usercontext.frameworks.tornado import UserContext

    class Go(RequestHandler):
        def get(self) -> None:
            play(lambda name: setattr(self, "current_user", account_of(name)))

    async def talk() -> None:
        app = Application([("/", Go)])
        UserContext(app)
        listening, port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(listening)
        await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/", raise_error=False)
        server.stop()
        await server.close_all_connections()

    asyncio.run(talk())


def serve_blacksheep(play: Callable[[Become], object]) -> None:
    """BlackSheep's `request.user`."""
    blacksheep = pytest.importorskip("blacksheep")
    from blacksheep.server.routing import Router
    from guardpost import Identity

    from usercontext.frameworks.blacksheep import UserContext, request_user

    app = blacksheep.Application(router=Router())

    async def go(request: Any) -> None:
        def become(name: str | None) -> None:
            request.user = None if name is None else Identity({"sub": name}, "test")

        play(become)

    go.__annotations__["request"] = blacksheep.Request
    app.router.add_get("/", go)
    UserContext(app, resolver=request_user)

    async def talk() -> None:
        await app.start()
        await asgi_call(app, {**scope_of(), "path": "/", "raw_path": b"/"})

    asyncio.run(talk())


def serve_bottle(play: Callable[[Become], object]) -> None:
    """The `request.user` of an app of Bottle."""
    bottle = pytest.importorskip("bottle")
    from usercontext.frameworks.bottle import UserContext, request_user

    def become(name: str | None) -> None:
        # Bottle lets nobody set an attribute twice.
        bottle.request.environ["bottle.request.ext.user"] = account_of(name)

    app = bottle.Bottle()
    app.install(UserContext(resolver=request_user))
    app.route("/cart", callback=lambda: play(become))
    wsgi_request(app, environ_of())


def serve_connexion(play: Callable[[Become], object]) -> None:
    """What Connexion keeps in its context."""
    connexion = pytest.importorskip("connexion")
    httpx = pytest.importorskip("httpx")
    from usercontext.frameworks.connexion import UserContext, request_user

    def go() -> None:
        kept = connexion.request.scope["extensions"].setdefault("connexion_context", {})
        play(lambda name: kept.update(user=name))

    answer = {"200": {"description": "ok"}}
    operation = {"operationId": "go", "responses": answer}
    specification = {
        "openapi": "3.0.0",
        "info": {"title": "shop", "version": "1"},
        "paths": {"/": {"get": operation}},
    }
    app = connexion.AsyncApp(__name__)
    app.add_api(specification, resolver=connexion.resolver.Resolver(lambda _: go))
    UserContext(app, resolver=request_user)

    async def talk() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await client.get("/")

    asyncio.run(talk())


def serve_oidc(play: Callable[[Become], object]) -> None:
    """The session of OpenID Connect."""
    pytest.importorskip("itsdangerous")
    starlette = pytest.importorskip("starlette.applications")
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.routing import Route

    from usercontext.resolvers import OidcSession

    async def go(request: Any) -> None:
        def become(name: str | None) -> None:
            if name is None:
                del request.session["user"]
            else:
                request.session["user"] = {"sub": name}

        play(become)

    sessions = Middleware(SessionMiddleware, secret_key="change me")
    app = starlette.Starlette(routes=[Route("/", go)], middleware=[sessions])
    over_asgi(asgi.UserContextMiddleware(app, resolver=OidcSession()))


SERVED: list[Any] = [
    pytest.param(serve, id=name.removeprefix("serve_"))
    for name, serve in sorted(vars().items())
    if name.startswith("serve_")
]

QUESTIONS: dict[str, Callable[[], object]] = {
    "a report": lambda: capture_message("early"),
    "a line that resolves": lambda: line(resolve=True),
    "a line": lambda: line(resolve=False),
    "get_user()": get_user,
}

pytestmark = pytest.mark.parametrize("serve", SERVED)


def error_of(recorder: RecordingClient) -> str | None:
    """Return whom the report of the error names."""
    (event,) = [event for event in recorder.events if "exception" in event]
    return (event.get("user") or {}).get("id")


@pytest.mark.parametrize("last", ["ada", "bob", None], ids=["login", "switch", "logout"])
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=list(QUESTIONS))
def test_an_error_names_the_user_of_its_moment(
    serve: Serve,
    question: Callable[[], object],
    last: str | None,
    usercontext_recorder: RecordingClient,
) -> None:
    """After an earlier question, before the login and after it, the error names who it is now."""

    def play(become: Become) -> None:
        question()
        become("ada")
        question()
        if last != "ada":
            become(last)
        raise KeyError("no such thing")

    serve(play)
    assert error_of(usercontext_recorder) == last


def test_a_line_names_whom_the_framework_has_found(serve: Serve) -> None:
    """By default a log line names the user as soon as the framework has found it."""
    named: list[str | None] = []

    def play(become: Become) -> None:
        named.append(line(resolve=False))
        for name in ("ada", "bob"):
            become(name)
            get_user()  # Pyramid's policy keeps nothing that could be seen before
            named.append(line(resolve=False))
        raise KeyError("no such thing")

    serve(play)
    assert named == [None, "ada", "bob"]
