"""Acting as somebody: requests of any framework's test client have the block's user."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.driver import asgi_call, asgi_request, plain_asgi_app, scope_of
from usercontext import (
    InvalidUserError,
    User,
    asgi,
    get_user,
    init,
    isolation_scope,
    set_user,
    use_user,
)
from usercontext.testing import acting_as

ADA = {"id": "ada"}


def who() -> str:
    """Return the id of the current user."""
    user = get_user()
    return str(None if user is None else user.id)


def nobody(_request: object) -> None:
    """Find nobody, as a resolver does without a login."""


# --- test clients -------------------------------------------------------------------------------


def ask_starlette() -> str:
    """Ask by Starlette's test client, whose app runs in another thread."""
    starlette = pytest.importorskip("starlette.applications")
    testclient = pytest.importorskip("starlette.testclient")
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from usercontext.frameworks.starlette import UserContext

    async def me(_request: object) -> PlainTextResponse:
        return PlainTextResponse(who())

    app = starlette.Starlette(routes=[Route("/", me)])
    UserContext(app, resolver=nobody)
    text: str = testclient.TestClient(app).get("/").text
    return text


def ask_httpx() -> str:
    """Ask by httpx's ASGITransport."""
    httpx = pytest.importorskip("httpx")
    fastapi = pytest.importorskip("fastapi")
    from usercontext.frameworks.fastapi import UserContext

    app = fastapi.FastAPI()
    app.get("/")(who)
    UserContext(app, resolver=nobody)

    async def talk() -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer: str = (await client.get("/")).json()
            return answer

    return asyncio.run(talk())


def ask_flask() -> str:
    """Ask by Flask's test client."""
    flask = pytest.importorskip("flask")
    from usercontext.frameworks.flask import UserContext

    app = flask.Flask("shop")
    app.get("/")(who)
    UserContext(app, resolver=nobody)
    text: str = app.test_client().get("/").text
    return text


def ask_quart() -> str:
    """Ask by Quart's test client."""
    quart = pytest.importorskip("quart")
    from usercontext.frameworks.quart import UserContext

    app = quart.Quart("shop")

    async def me() -> str:
        return who()

    app.get("/")(me)
    UserContext(app, resolver=nobody)

    async def talk() -> str:
        return str(await (await app.test_client().get("/")).get_data(as_text=True))

    return asyncio.run(talk())


def ask_litestar() -> str:
    """Ask by Litestar's test client."""
    litestar = pytest.importorskip("litestar")
    testing = pytest.importorskip("litestar.testing")
    from usercontext.frameworks.litestar import UserContext

    @litestar.get("/", media_type="text/plain", sync_to_thread=False)
    def me() -> str:
        return who()

    app = litestar.Litestar([me], plugins=[UserContext(resolver=nobody)], logging_config=None)
    with testing.TestClient(app) as client:
        text: str = client.get("/").text
    return text


def ask_falcon() -> str:
    """Ask by Falcon's test client."""
    falcon = pytest.importorskip("falcon")
    testing = pytest.importorskip("falcon.testing")
    from usercontext.frameworks.falcon import UserContext

    class Me:
        def on_get(self, _req: Any, resp: Any) -> None:
            resp.text = who()

    app = falcon.App()
    app.add_route("/", Me())
    text: str = testing.TestClient(UserContext(app, resolver=nobody)).simulate_get("/").text
    return text


def ask_aiohttp() -> str:
    """Ask by aiohttp's test client, over a socket."""
    pytest.importorskip("aiohttp")
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from usercontext.frameworks.aiohttp import setup

    async def me(_request: web.Request) -> web.Response:
        return web.Response(text=who())

    async def talk() -> str:
        app = web.Application()
        app.router.add_get("/", me)
        setup(app, resolver=nobody)
        async with TestClient(TestServer(app)) as client:
            return await (await client.get("/")).text()

    return asyncio.run(talk())


def ask_django() -> str:
    """Ask by Django's test client."""
    return _ask_django("plain")


def ask_rest_framework() -> str:
    """Ask by REST framework's test client."""
    pytest.importorskip("rest_framework")
    return _ask_django("rest")


def _ask_django(target: str) -> str:
    pytest.importorskip("django")
    from django.test import Client, override_settings

    from tests.frameworks.django_project import OURS

    clients: dict[str, Any] = {"plain": Client}
    if target == "rest":
        from rest_framework.test import APIClient

        clients["rest"] = APIClient
    with override_settings(ROOT_URLCONF=_Urls, MIDDLEWARE=[OURS]):
        text: str = clients[target]().get("/").content.decode()
    return text


class _Urls:
    """What Django takes for a module of addresses."""

    urlpatterns: Any = ()


@pytest.fixture(autouse=True)
def _addresses() -> None:
    if not _Urls.urlpatterns:
        urls = pytest.importorskip("django.urls")
        http = pytest.importorskip("django.http")
        _Urls.urlpatterns = [urls.path("", lambda _: http.HttpResponse(who()))]


CLIENTS = [ask for name, ask in sorted(vars().items()) if name.startswith("ask_")]


@pytest.mark.parametrize("ask", CLIENTS)
def test_requests_inside_the_block_have_its_user(ask: Any) -> None:
    """The app has a resolver that finds nobody, and a user all the same: inside the block."""
    with acting_as(ADA):
        inside = ask()
    assert (inside, ask()) == ("ada", "None")


# --- what it is, and is not ---------------------------------------------------------------------


def served(seen: list[str], **options: Any) -> Any:
    """Make an app that notes who makes each request."""
    return asgi.UserContextMiddleware(plain_asgi_app(lambda: seen.append(who())), **options)


def test_blocks_are_nested() -> None:
    """The innermost one counts, and the outer one again after it."""
    seen: list[str] = []
    app = served(seen)
    with acting_as(ADA):
        with acting_as(User(id="bob")):
            asgi_request(app)
        asgi_request(app)
    assert seen == ["bob", "ada"]


def test_blocks_of_two_tasks_stay_apart() -> None:
    """Requests of tasks that run at the same time each have their own block's user."""
    seen: list[str] = []
    app = served(seen)

    async def act(name: str, here: asyncio.Event, there: asyncio.Event) -> None:
        with acting_as({"id": name}):
            here.set()
            await there.wait()
            await asgi_call(app, scope_of())

    async def both() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(act("ada", first, second), act("bob", second, first))

    asyncio.run(both())
    assert sorted(seen) == ["ada", "bob"]


def test_a_server_begun_in_an_outer_block_serves_the_inner_one() -> None:
    """A server's context is that of the block it was begun in, and counts less."""
    seen: list[str] = []
    app = served(seen)

    async def talk() -> None:
        asked = asyncio.Event()

        async def server() -> None:
            await asked.wait()
            await asgi_call(app, scope_of())

        with acting_as(ADA):
            task = asyncio.create_task(server())
            await asyncio.sleep(0)
            with acting_as({"id": "bob"}):
                asked.set()
                await task

    asyncio.run(talk())
    assert seen == ["bob"]


def test_what_the_app_says_itself_counts() -> None:
    """A login that the app makes known with set_user() is not overruled."""
    seen: list[str] = []

    def log_in() -> None:
        set_user({"id": "bob"})
        seen.append(who())

    with acting_as(ADA):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(log_in)))
    assert seen == ["bob"]


def test_init_inside_the_block_changes_nothing() -> None:
    """A fixture may call init() later."""
    seen: list[str] = []
    app = served(seen)
    with acting_as(ADA):
        init(None, resolver=nobody)
        asgi_request(app)
    assert seen == ["ada"]


def test_nobody_may_be_acted_as() -> None:
    """With None requests have no user, whatever a resolver would find."""
    seen: list[str] = []
    with acting_as(None):
        asgi_request(served(seen, resolver=lambda _: ADA))
    assert seen == ["None"]


def test_it_decorates_a_test() -> None:
    """As every context manager of a function does."""
    seen: list[str] = []

    @acting_as(ADA)
    def a_test() -> None:
        asgi_request(served(seen))

    a_test()
    assert seen == ["ada"]


def test_blocks_that_are_no_requests_are_let_be() -> None:
    """It is for requests: a script's own blocks say themselves who it is."""
    with acting_as(ADA), isolation_scope():
        first = who()
        with use_user({"id": "bob"}):
            assert (first, who()) == ("None", "bob")


@pytest.mark.parametrize("wrong", ["ada", {"plan": "pro"}, object()])
def test_what_names_nobody_is_refused(wrong: object) -> None:
    """A test that acts as nobody by mistake would prove nothing."""
    with pytest.raises(InvalidUserError, match="names nobody"), acting_as(wrong):
        pass
