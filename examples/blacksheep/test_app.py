"""The BlackSheep example: every report names the customer whom BlackSheep's own security found."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType

import httpx
import pytest

from usercontext.testing import RecordingClient

Talk = Callable[[Callable[[httpx.AsyncClient], Awaitable[object]]], None]
ADA, BOB = {"x-api-key": "ada-key"}, {"x-api-key": "bob-key"}


@pytest.fixture
def talk(shop: ModuleType, usercontext_recorder: RecordingClient) -> Talk:
    """Run a conversation with the app, up to the end of its tasks."""

    async def with_client(conversation: Callable[[httpx.AsyncClient], Awaitable[object]]) -> None:
        transport = httpx.ASGITransport(shop.app, raise_app_exceptions=False)
        await shop.app.start()
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
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
    talk(lambda client: client.request(method, path, headers=ADA))
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
