"""The Quart example: every report names the customer whom Quart-Auth remembers."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest

from usercontext.testing import RecordingClient

Talk = Callable[[Callable[[Any], Awaitable[object]]], None]


@pytest.fixture
def talk(shop: ModuleType, usercontext_recorder: RecordingClient) -> Talk:
    """Run a conversation with the app, up to the end of its background tasks."""

    async def with_app(conversation: Callable[[Any], Awaitable[object]]) -> None:
        async with shop.app.test_app() as app:
            await conversation(app)

    return lambda conversation: asyncio.run(with_app(conversation))


async def customer(app: Any, username: str) -> Any:
    """Return a client who has logged in."""
    client = app.test_client()
    assert (await client.post("/login", form={"username": username})).status_code == 200
    return client


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("id") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders/7"),
        ("GET", "/stock/7"),
        ("POST", "/orders/7/invoice"),
        ("GET", "/orders/7/export"),
    ],
)
def test_a_report_names_its_customer(
    talk: Talk, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Views, worker threads, background tasks and streams report whom Quart-Auth knows."""

    async def conversation(app: Any) -> None:
        client = await customer(app, "ada")
        await (await client.open(path, method=method)).get_data()

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """A visitor's request is reported without an id, also after somebody's."""

    async def conversation(app: Any) -> None:
        await (await customer(app, "ada")).get("/orders/7")
        await app.test_client().get("/orders/8")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada", None]


def test_customers_at_the_same_time(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Requests that run at once each report their own customer."""

    async def conversation(app: Any) -> None:
        clients = [await customer(app, name) for name in ("ada", "bob")]
        await asyncio.gather(*[clients[n % 2].get(f"/orders/{10 + n}") for n in range(20)])

    talk(conversation)
    found = {
        event["request"]["url"].rpartition("/")[2]: event["user"]["id"]
        for event in usercontext_recorder.events
    }
    assert found == {str(10 + n): ("ada", "bob")[n % 2] for n in range(20)}


def test_a_websocket_names_its_customer(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Every report of a connection names the customer who opened it."""

    async def conversation(app: Any) -> None:
        client = await customer(app, "ada")
        async with client.websocket("/book") as socket:
            for number in ("1", "7"):
                await socket.send(number)
                await socket.receive()

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada"]
