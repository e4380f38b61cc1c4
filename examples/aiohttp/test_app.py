"""The aiohttp example: every report names the customer whose request it was."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from usercontext.testing import RecordingClient

Client = TestClient[Any, Any]
Talk = Callable[[Callable[[Client], Awaitable[object]]], None]
ADA, BOB = {"x-api-key": "ada-key"}, {"x-api-key": "bob-key"}


@pytest.fixture
def talk(shop: ModuleType, usercontext_recorder: RecordingClient) -> Talk:
    """Run a conversation with the app, up to the end of its tasks."""

    async def with_client(conversation: Callable[[Client], Awaitable[object]]) -> None:
        async with TestClient(TestServer(shop.create_app())) as client:
            await conversation(client)
            await asyncio.gather(*shop.tasks)

    return lambda conversation: asyncio.run(with_client(conversation))


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
    """Handlers, tasks that outlive their request and streams report the customer."""

    async def conversation(client: Client) -> None:
        async with client.request(method, path, headers=ADA) as answer:
            await answer.read()

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """A request without a key is reported with its address only, also after somebody's."""

    async def conversation(client: Client) -> None:
        await client.get("/orders/7", headers=ADA)
        await client.get("/orders/8")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_customers_at_the_same_time(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Requests that run at once each report their own customer."""

    async def conversation(client: Client) -> None:
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

    async def conversation(client: Client) -> None:
        async with client.ws_connect("/book", headers=BOB) as socket:
            for number in ("1", "7"):
                await socket.send_str(number)
                await socket.receive()

    talk(conversation)
    assert reported(usercontext_recorder) == ["bob"]
