"""Messages on one websocket, each with a user of its own: real servers and clients."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import usercontext
from tests.calls.serving import PEOPLE, bearer, named, serving, token, who
from usercontext import message_scope
from usercontext.asgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from usercontext.testing import RecordingClient


async def handle(text: str) -> str:
    """Handle one message, as an app does; return whom it was for."""
    message = json.loads(text)
    with message_scope(*message.get("of", ())):
        if "become" in message:
            usercontext.set_user({"id": message["become"]})
        if "note" in message:
            usercontext.capture_message("noted")
        await asyncio.sleep(0.01 if "slow" in message else 0)
        if "boom" in message:
            raise RuntimeError("kaboom")
        return who()


async def handle_all(text: str, send: Callable[[str], Awaitable[object]]) -> None:
    """Handle the messages of one text in tasks beside each other; answer them in order."""
    messages = json.loads(text)
    told = await asyncio.gather(*(handle(json.dumps(message)) for message in messages))
    await send(json.dumps([*told, who()]))


# --- the frameworks -------------------------------------------------------------------------------


@contextmanager
def starlette() -> Iterator[str]:
    """Serve Starlette."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket  # noqa: TC002 - as apps write it

    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await handle_all(text, socket.send_text)

    app = Starlette(routes=[WebSocketRoute("/", chat)])
    with serving(UserContextMiddleware(app, resolver=bearer)) as base:
        yield base


@contextmanager
def fastapi() -> Iterator[str]:
    """Serve FastAPI."""
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    async def chat(socket: Any) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await handle_all(text, socket.send_text)

    chat.__annotations__["socket"] = fastapi.WebSocket
    app.add_api_websocket_route("/", chat)
    with serving(UserContextMiddleware(app, resolver=bearer)) as base:
        yield base


@contextmanager
def litestar() -> Iterator[str]:
    """Serve Litestar."""
    litestar = pytest.importorskip("litestar")
    from usercontext.frameworks.litestar import UserContext

    async def chat(socket: Any) -> None:
        await socket.accept()
        async for text in socket.iter_data():
            await handle_all(text, socket.send_text)

    chat.__annotations__.update(socket=litestar.WebSocket, **{"return": None})
    handler = litestar.handlers.websocket("/")(chat)
    app = litestar.Litestar([handler], plugins=[UserContext(resolver=bearer)])
    with serving(app) as base:
        yield base


@contextmanager
def quart() -> Iterator[str]:
    """Serve Quart."""
    quart = pytest.importorskip("quart")
    from usercontext.frameworks.quart import UserContext

    app = quart.Quart("shop")

    @app.websocket("/")
    async def chat() -> None:
        while True:
            await handle_all(await quart.websocket.receive(), quart.websocket.send)

    UserContext(app, resolver=bearer)
    with serving(app) as base:
        yield base


@contextmanager
def channels() -> Iterator[str]:
    """Serve a consumer of Channels."""
    pytest.importorskip("channels")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, DATABASES={})
    from channels.generic.websocket import AsyncWebsocketConsumer

    from usercontext.frameworks.channels import UserContext

    class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def receive(self, text_data: str) -> None:
            await handle_all(text_data, lambda text: self.send(text_data=text))

    def find(scope: Any) -> object:
        return PEOPLE.get(dict(scope["headers"]).get(b"authorization", b"").decode())

    with serving(UserContext(Chat.as_asgi(), resolver=find)) as base:
        yield base


@contextmanager
def aiohttp() -> Iterator[str]:
    """Serve aiohttp, by its own server."""
    web = pytest.importorskip("aiohttp.web")
    from usercontext.frameworks.aiohttp import setup

    async def chat(request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await handle_all(message.data, socket.send_str)
        return socket

    app = web.Application()
    app.router.add_get("/", chat)
    setup(app, resolver=bearer)
    with _served_by_aiohttp(web, app) as base:
        yield base


@contextmanager
def _served_by_aiohttp(web: Any, app: Any) -> Iterator[str]:
    loop, started, found = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> Any:
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.append(runner.addresses[0][1])
        started.set()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    yield f"http://127.0.0.1:{found[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[starlette, fastapi, litestar, quart, channels, aiohttp])
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve each framework in turn."""
    with request.param() as base:
        yield base


def converse(base: str, caller: str | None, *texts: object) -> list[list[str]]:
    """Send texts of one or more messages on one websocket; return the answers to each."""

    async def talk() -> list[list[str]]:
        told = []
        url = base.replace("http", "ws") + "/"
        async with connect(url, additional_headers=token(caller)) as socket:
            with suppress(ConnectionClosed):
                for text in texts:
                    await socket.send(json.dumps(text))
                    async with asyncio.timeout(10):
                        told.append(json.loads(await socket.recv()))
        return told

    return asyncio.run(talk())


BOB, NOBODY = {"of": [{"id": "bob"}]}, {"of": [None]}


def test_every_message_has_its_own_user(base: str) -> None:
    """A message is of whom it names, and without a name of who has opened the connection."""
    told = converse(base, "ada", [BOB], [{}], [NOBODY], [{}], [{"become": "mallory"}], [{}])
    assert told == [[user, "ada"] for user in ("bob", "ada", "nobody", "ada", "mallory", "ada")]


def test_messages_at_once(base: str) -> None:
    """Messages of one connection that tasks handle at the same time are apart."""
    eve = {"become": "eve", "slow": True}
    told = converse(base, "ada", [{**BOB, "slow": True}, eve, {"slow": True}, NOBODY])
    assert told == [["bob", "eve", "ada", "nobody", "ada"]]


def test_a_connection_of_nobody(base: str) -> None:
    """Where nobody has opened the connection, a message without a name is nobody's."""
    assert converse(base, None, [{}], [BOB], [{}]) == [
        ["nobody", "nobody"],
        ["bob", "nobody"],
        ["nobody", "nobody"],
    ]


def test_reports_of_a_message(base: str, recorder: RecordingClient) -> None:
    """What is reported in a message names its user, and tells of the connection's request."""
    converse(base, "ada", [{**BOB, "note": True}], [{"note": True}])
    assert [event["user"]["id"] for event in recorder.events] == ["bob", "ada"]
    assert {event["request"]["url"].partition(":")[0] for event in recorder.events} <= {
        "ws",
        "http",
    }


def test_an_error_names_its_message(base: str, recorder: RecordingClient) -> None:
    """An error that ends the connection is reported once, with the user of its message."""
    for message in ({**BOB, "boom": True}, {"boom": True}):
        converse(base, "ada", [{}], [message])
    assert named(recorder.events) == [("RuntimeError", "bob"), ("RuntimeError", "ada")]


async def find_async(connection: Any) -> object:
    """Find who opens a connection, and await something."""
    await asyncio.sleep(0)
    return bearer(connection)


def test_an_async_resolver_is_awaited_in_a_message() -> None:
    """A message may await the resolver of its connection, as a request may."""
    from starlette.websockets import WebSocket

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        async for _ in socket.iter_text():
            with message_scope():
                await usercontext.resolve_user()
                await socket.send_text(json.dumps([who()]))

    with serving(UserContextMiddleware(chat, resolver=find_async), lifespan="off") as base:
        assert converse(base, "ada", [], []) == [["ada"], ["ada"]]


def test_a_connection_that_logs_in() -> None:
    """A ready resolver follows its framework from one message to the next, and within one."""
    from starlette.websockets import WebSocket

    from usercontext.frameworks.starlette import request_user

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        async for name in socket.iter_json():
            with message_scope():
                before = who()
                scope["user"] = {"id": name}
                await socket.send_text(json.dumps([before, who()]))

    with serving(UserContextMiddleware(chat, resolver=request_user), lifespan="off") as base:
        assert converse(base, None, "ada", "bob") == [["nobody", "ada"], ["ada", "bob"]]


def test_outside_of_every_connection() -> None:
    """Without a connection it is a scope of its own."""
    with message_scope(user={"id": "bob"}):
        assert who() == "bob"
    with message_scope():
        assert who() == "nobody"
