"""Socket.IO: real servers on uvicorn and of WSGI, and the real client."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import socketio
import uvicorn  # noqa: F401 - its absence skips these tests
from werkzeug.serving import make_server

import usercontext
from tests.calls.serving import bearer, named, serving, start_later, token, who
from usercontext import asgi, wsgi
from usercontext.calls.socketio import Event, UserContext
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient

# A client that does not wait for its last long poll leaves the connection to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": None}


def add_handlers(server: Any) -> None:
    """Give a server of threads what the tests send."""

    @server.event
    def connect(sid: str, environ: Any, auth: Any) -> None:
        if auth and "as" in auth:
            usercontext.set_user({"id": auth["as"]})

    @server.on("who")
    def who_here(sid: str) -> str:
        return who()

    @server.event
    def later(sid: str) -> str:
        start_later()
        return who()

    @server.event
    def boom(sid: str) -> str:
        raise RuntimeError("kaboom")

    @server.event
    def become(sid: str, user: str) -> str:
        usercontext.set_user({"id": user})
        return who()


def add_async_handlers(server: Any) -> None:
    """Give a server of a loop what the tests send."""

    @server.event
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if auth and "as" in auth:
            usercontext.set_user({"id": auth["as"]})

    @server.on("who")
    async def who_here(sid: str) -> str:
        await asyncio.sleep(0)
        return who()

    @server.event
    async def later(sid: str) -> str:
        start_later()
        return who()

    @server.event
    async def boom(sid: str) -> str:
        raise RuntimeError("kaboom")

    @server.event
    async def become(sid: str, user: str) -> str:
        usercontext.set_user({"id": user})
        return who()


@contextmanager
def served(kind: str) -> Iterator[str]:
    """Serve a server of one kind, behind our middleware."""
    if kind == "wsgi":
        yield from _serving_wsgi()
        return
    at_once = kind == "asgi"
    server = socketio.AsyncServer(async_mode="asgi", async_handlers=at_once, ping_interval=0.3)
    add_async_handlers(server)
    UserContext(server)
    app = asgi.UserContextMiddleware(socketio.ASGIApp(server), resolver=bearer)
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module", params=["asgi", "asgi, one at a time", "wsgi"])
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of each kind."""
    with served(request.param) as address:
        yield address


def _serving_wsgi() -> Iterator[str]:
    server = socketio.Server(async_mode="threading", ping_interval=0.3)
    add_handlers(server)
    UserContext(server)
    app = wsgi.UserContextMiddleware(socketio.WSGIApp(server), resolver=bearer)
    listening = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join(10)
    listening.server_close()


@pytest.fixture(params=TRANSPORTS)
def transports(request: pytest.FixtureRequest, base: str) -> list[str] | None:
    """One of the ways in which events come."""
    if "wsgi" in request.node.name and request.param != "polling":
        pytest.skip("this WSGI server has no websockets")
    return TRANSPORTS[request.param]


class Clients:
    """Clients of one test, which disconnect at its end."""

    def __init__(self, base: str, transports: list[str] | None) -> None:
        self.base = base
        self.transports = transports
        self.opened: list[Any] = []

    async def open(self, caller: str | None, auth: Any = None) -> Any:
        client = socketio.AsyncClient(reconnection=False)
        await client.connect(
            self.base, headers=token(caller), transports=self.transports, auth=auth
        )
        self.opened.append(client)
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.opened:
            await client.eio.disconnect(abort=True)  # else a long poll is waited for


def test_every_event_is_of_who_has_connected(base: str, transports: Any) -> None:
    """Clients alternate, and each event is of its own client."""

    async def run() -> list[str]:
        async with Clients(base, transports) as clients:
            opened = [await clients.open(name) for name in ("ada", "bob", None)]
            return [await client.call("who", timeout=10) for client in opened * 2]

    assert asyncio.run(run()) == ["ada", "bob", "nobody"] * 2


def test_who_is_set_by_connect_stays(base: str, transports: Any) -> None:
    """The user that `connect` sets is that of later events, and of no other client's."""

    async def run() -> list[str]:
        async with Clients(base, transports) as clients:
            first = await clients.open("ada", auth={"as": "eve"})
            second = await clients.open("ada")
            return [await one.call("who", timeout=10) for one in (first, second, first)]

    assert asyncio.run(run()) == ["eve", "ada", "eve"]


def test_who_is_set_by_an_event_is_of_that_event(base: str, transports: Any) -> None:
    """`set_user()` in one event names no later one."""

    async def run() -> list[str]:
        async with Clients(base, transports) as clients:
            client = await clients.open("ada")
            changed = await client.call("become", "mallory", timeout=10)
            return [changed, await client.call("who", timeout=10)]

    assert asyncio.run(run()) == ["mallory", "ada"]


def test_an_error_names_its_client(base: str, transports: Any, recorder: RecordingClient) -> None:
    """What an event's handler raises is reported once, with its client."""

    async def run() -> None:
        async with Clients(base, transports) as clients:
            for name in ("bob", None):
                client = await clients.open(name)
                await client.emit("boom")
                if transports != ["websocket"]:
                    await client.call("who", timeout=10)
                for _ in range(500):
                    if len(recorder.events) >= (1 if name else 2):
                        break
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    assert named(recorder.events) == [("RuntimeError", "bob"), ("RuntimeError", None)]
    assert recorder.events[0]["transaction"] == "boom"


def test_a_resolver_of_its_own_and_memory() -> None:
    """A resolver gets what `connect` was sent; with `remember` an event's `set_user()` stays."""

    def find(event: Event) -> object:
        return {"id": event.auth["token"]}

    server = socketio.AsyncServer(async_mode="asgi")
    add_async_handlers(server)
    UserContext(server, resolver=find, remember=True)

    async def run(base: str) -> list[str]:
        async with Clients(base, ["websocket"]) as clients:
            client = await clients.open(None, auth={"token": "ada"})
            found = await client.call("who", timeout=10)
            await client.call("become", "bob", timeout=10)
            return [found, await client.call("who", timeout=10)]

    with serving(socketio.ASGIApp(server)) as base:
        assert asyncio.run(run(base)) == ["ada", "bob"]


def test_twice_is_refused() -> None:
    """One server has one `UserContext`."""
    server = socketio.AsyncServer(async_mode="asgi")
    UserContext(server)
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(server)


def test_what_is_no_server_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="AsyncServer"):
        UserContext(object())
