"""At whatever door a request comes in, its clients see the same request to its end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import asgi_request, environ_of, plain_asgi_app, plain_wsgi_app, wsgi_request
from usercontext import User, asgi, isolation_scope, set_request_data, set_user, use_user, wsgi
from usercontext.clients.base import BaseClient
from usercontext.core.record import KEY, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usercontext.types import GetUser

ADA = User(id=1)


class Noting(BaseClient):
    """A client that notes what is current when its scope of a request begins and ends."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[tuple[Any, bool, Any]] = []

    @contextmanager
    def _scope(self, get_user: GetUser) -> Iterator[None]:
        self.begun.append(current())
        yield
        record = current()
        is_open = record is not None and record.ended is None
        self.ended.append((record, is_open, get_user()))

    def request_scope(self, get_user: GetUser, /) -> Any:
        """Note both ends of a request."""
        return self._scope(get_user)


def name_ada() -> None:
    """Say who makes the request."""
    set_user(ADA)


def fail() -> None:
    """Fail as an app does, once it is known who makes the request."""
    set_user(ADA)
    raise LookupError


def over_asgi(client: Noting, handler: Callable[[], None]) -> None:
    """Serve over ASGI."""
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[client]))


def over_wsgi(client: Noting, handler: Callable[[], None]) -> None:
    """Serve over WSGI, with a list for a body."""
    wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), clients=[client]))


def streamed(client: Noting, handler: Callable[[], None]) -> None:
    """Serve over WSGI, with a body that runs after the app has returned."""

    def app(_environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])

        def body() -> Iterator[bytes]:
            handler()
            yield b"1"

        return body()

    served = wsgi.UserContextMiddleware(app, clients=[client])(environ_of(), lambda *_: print)
    try:
        list(served)
    finally:
        served.close()  # type: ignore[attr-defined]


def in_a_block(client: Noting, handler: Callable[[], None]) -> None:
    """Serve nothing: a script."""
    import usercontext

    usercontext.init(None, clients=[client])
    with isolation_scope():
        handler()


def over_aiohttp(client: Noting, handler: Callable[[], None]) -> None:
    """Serve with aiohttp, in its own server."""
    web = pytest.importorskip("aiohttp.web")
    from aiohttp.test_utils import TestClient, TestServer

    from usercontext.frameworks.aiohttp import setup

    async def handle(_request: Any) -> Any:
        handler()
        return web.Response()

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/", handle)
        setup(app, clients=[client])
        async with TestClient(TestServer(app)) as browser:
            await browser.get("/")

    asyncio.run(run())


def over_tornado(client: Noting, handler: Callable[[], None]) -> None:
    """Serve with Tornado, in its own server."""
    pytest.importorskip("tornado")
    from tornado.web import Application, RequestHandler

    from tests.frameworks.test_tornado import talk
    from usercontext.frameworks.tornado import UserContext

    class Page(RequestHandler):
        def get(self) -> None:
            handler()

    app = Application([("/", Page)])
    UserContext(app, clients=[client])
    talk(app, lambda browser: browser.get("/"))


def over_sanic(client: Noting, handler: Callable[[], None]) -> None:
    """Serve with Sanic, in its own server."""
    pytest.importorskip("sanic")
    from sanic import Sanic
    from sanic.response import text

    from tests.frameworks.test_sanic import numbers, talk
    from usercontext.frameworks.sanic import UserContext

    async def page(_request: Any) -> Any:
        handler()
        return text("")

    app: Any = Sanic(f"Door{next(numbers)}")
    app.add_route(page, "/")
    UserContext(app, clients=[client])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sanic, "test_mode", True)
        talk(app, lambda browser: browser.get("/"))


def over_django(client: Noting, handler: Callable[[], None], *, by_asgi: bool = False) -> None:
    """Serve with Django, our middleware in its own chain alone."""
    pytest.importorskip("django")
    from django.http import HttpResponse
    from django.test import override_settings
    from django.urls import path

    from tests.frameworks.django_project import OURS, serve_asgi, serve_wsgi

    def page(_request: Any) -> HttpResponse:
        handler()
        return HttpResponse("")

    class Urls:
        urlpatterns = (path("page", page),)

    options = {"clients": [client]}
    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=[OURS], USERCONTEXT=options):
        (serve_asgi if by_asgi else serve_wsgi)("page")


def over_channels(client: Noting, handler: Callable[[], None]) -> None:
    """Serve with a consumer of Channels."""
    pytest.importorskip("channels")
    from channels.generic.http import AsyncHttpConsumer

    import tests.frameworks.django_project  # noqa: F401 - Channels wants settings
    from usercontext.frameworks.channels import UserContext

    class Page(AsyncHttpConsumer):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            handler()
            await self.send_response(200, b"")

    asgi_request(UserContext(Page.as_asgi(), clients=[client]))


DOORS = {
    "asgi": over_asgi,
    "wsgi": over_wsgi,
    "wsgi, streamed": streamed,
    "isolation_scope": in_a_block,
    "aiohttp": over_aiohttp,
    "tornado": over_tornado,
    "sanic": over_sanic,
    "django": over_django,
    "django, async": partial(over_django, by_asgi=True),
    "channels": over_channels,
}


@pytest.mark.parametrize("handler", [name_ada, fail], ids=["well", "failing"])
@pytest.mark.parametrize("serve", DOORS.values(), ids=DOORS)
def test_a_clients_scope_ends_inside_its_request(
    serve: Callable[[Noting, Callable[[], None]], None], handler: Callable[[], None]
) -> None:
    """When the scope of a client ends, the record of its own request is current, and open."""
    client = Noting()
    try:
        serve(client, handler)
    except LookupError:
        assert handler is fail
    (begun,), (ended,) = client.begun, client.ended
    assert begun is not None
    assert ended == (begun, True, {"id": "1"})
    assert current() is None


def touch_nothing() -> None:
    """Do what an app does that reports nothing."""


def hand_over_data() -> None:
    """Hand a body over, and name nobody."""
    set_request_data({"a": 1})


def act_as_another() -> None:
    """Be somebody else for a while."""
    with use_user(User(id=2)):
        pass


@pytest.mark.parametrize("handler", [touch_nothing, name_ada, hand_over_data, act_as_another, fail])
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_the_short_way_ends_as_the_long_way_does(
    interface: str, handler: Callable[[], None]
) -> None:
    """A request without clients, whose steps are written out, ends as one with clients does."""

    def end_of(**options: Any) -> list[Any]:
        found: list[Any] = []

        def note() -> None:
            found.append(current())
            handler()

        try:
            if interface == "asgi":
                asgi_request(asgi.UserContextMiddleware(plain_asgi_app(note), **options))
            else:
                wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(note), **options))
        except LookupError:
            assert handler is fail
        (record,) = found
        data = None if record.state is None else record.state.data
        return [record.ended is not None, record.source, record.user, data, current()]

    assert end_of() == end_of(clients=[Noting()])


def test_the_record_of_the_short_way_is_whole() -> None:
    """What the short way fills by itself is all that a record has."""
    found: list[Any] = []
    app = wsgi.UserContextMiddleware(plain_wsgi_app(lambda: found.append(current())))
    environ = environ_of()
    app(environ, lambda *_: print)
    (record,) = found
    assert environ[KEY] is record
    for name in type(record).__slots__:
        assert name == "__weakref__" or hasattr(record, name)
