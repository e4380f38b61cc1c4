"""The Tornado example: every report names the customer whose request it was."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import websocket_connect

from usercontext.testing import RecordingClient

Talk = Callable[[Callable[[str], Awaitable[object]]], None]
ADA, BOB = {"x-api-key": "ada-key"}, {"x-api-key": "bob-key"}


@pytest.fixture
def talk(shop: ModuleType, usercontext_recorder: RecordingClient) -> Talk:
    """Run a conversation with the application, given the address that it is served at."""

    async def serve(conversation: Callable[[str], Awaitable[object]]) -> None:
        listening, port = bind_unused_port()
        server = HTTPServer(shop.create_app())
        server.add_socket(listening)
        await conversation(f"127.0.0.1:{port}")
        server.stop()
        await server.close_all_connections()

    return lambda conversation: asyncio.run(serve(conversation))


async def ask(
    address: str, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> bytes:
    """Send a request; return the answer."""
    request = HTTPRequest(
        f"http://{address}{path}", method, headers, allow_nonstandard_methods=True
    )
    return (await AsyncHTTPClient().fetch(request, raise_error=False)).body


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/orders/7"), ("POST", "/orders/7/invoice"), ("GET", "/orders/7/export")],
)
def test_a_report_names_its_customer(
    talk: Talk, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Handlers, callbacks that outlive their request and streams report the customer."""
    talk(lambda address: ask(address, path, ADA, method))
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """A request without a key is reported with its address only, also after somebody's."""

    async def conversation(address: str) -> None:
        await ask(address, "/orders/7", ADA)
        await ask(address, "/orders/8")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_customers_at_the_same_time(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Requests that run at once each report their own customer."""

    async def conversation(address: str) -> None:
        keys = [ADA, BOB]
        await asyncio.gather(*[ask(address, f"/orders/{10 + n}", keys[n % 2]) for n in range(20)])

    talk(conversation)
    found = {
        event["request"]["url"].rpartition("/")[2]: event["user"]["username"]
        for event in usercontext_recorder.events
    }
    assert found == {str(10 + n): ("ada", "bob")[n % 2] for n in range(20)}


def test_a_websocket_names_its_customer(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Every report of a connection names the customer who opened it."""

    async def conversation(address: str) -> None:
        socket = await websocket_connect(HTTPRequest(f"ws://{address}/book", headers=BOB))
        for number in ("1", "7"):
            await socket.write_message(number)
            await socket.read_message()
        socket.close()
        assert await socket.read_message() is None

    talk(conversation)
    assert reported(usercontext_recorder) == ["bob"]
