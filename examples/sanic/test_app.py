"""The Sanic example: every report names the customer whose request it was."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import httpx
import pytest
from sanic import Sanic
from sanic.application.constants import ServerStage
from sanic.application.state import ApplicationServerInfo
from websockets.asyncio.client import connect

from usercontext.testing import RecordingClient

Talk = Callable[[Callable[[httpx.AsyncClient], Awaitable[object]]], None]
ADA, BOB = {"x-api-key": "ada-key"}, {"x-api-key": "bob-key"}


@pytest.fixture
def talk(
    shop: ModuleType, usercontext_recorder: RecordingClient, monkeypatch: pytest.MonkeyPatch
) -> Talk:
    """Run a conversation with the app, which Sanic's own server serves."""
    # Each test starts a server of the same app.
    monkeypatch.setattr(Sanic, "test_mode", True)
    shop.app.router.reset()
    shop.app.signal_router.reset()

    async def serve(conversation: Callable[[httpx.AsyncClient], Awaitable[object]]) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        server: Any = await shop.app.create_server(sock=listening, return_asyncio_server=True)
        await server.startup()
        await server.start_serving()
        # Or else tasks of the app would wait for the start of a server.
        shop.app.state.server_info.append(ApplicationServerInfo({}, ServerStage.SERVING))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as client:
            await conversation(client)
        shop.app.state.server_info.clear()
        await server.close()

    return lambda conversation: asyncio.run(serve(conversation))


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize("path", ["/orders/7", "/orders/7/export"])
def test_a_report_names_its_customer(
    talk: Talk, usercontext_recorder: RecordingClient, path: str
) -> None:
    """Handlers and streams report the customer."""
    talk(lambda client: client.get(path, headers=ADA))
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """A request without a key is reported with its address only, also after somebody's."""

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.get("/orders/7", headers=ADA)
        await client.get("/orders/8")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_customers_at_the_same_time(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Requests that run at once each report their own customer."""

    async def conversation(client: httpx.AsyncClient) -> None:
        keys = [ADA, BOB]
        await asyncio.gather(
            *[client.get(f"/orders/{10 + n}", headers=keys[n % 2]) for n in range(20)]
        )

    talk(conversation)
    found = {
        event["request"]["url"].rpartition("/")[2]: event["user"]["username"]
        for event in usercontext_recorder.events
    }
    assert found == {str(10 + n): ("ada", "bob")[n % 2] for n in range(20)}


def test_a_websocket_names_its_customer(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Every report of a connection names the customer who opened it."""

    async def conversation(client: httpx.AsyncClient) -> None:
        url = f"ws://127.0.0.1:{client.base_url.port}/book"
        async with connect(url, additional_headers=BOB) as book:
            for number in ("1", "7"):
                await book.send(number)
                await book.recv()

    talk(conversation)
    assert reported(usercontext_recorder) == ["bob"]


def test_a_task_of_the_app_names_its_customer(
    shop: ModuleType, talk: Talk, usercontext_recorder: RecordingClient
) -> None:
    """An invoice that is written after the response names who asked for it."""

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.post("/orders/7/invoice", headers=ADA)
        await shop.app.get_task("invoice-7")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada"]
