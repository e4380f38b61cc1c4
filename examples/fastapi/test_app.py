"""The FastAPI example: every report names the customer whose request it was."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType

import httpx
import pytest

from usercontext.testing import RecordingClient

Talk = Callable[[Callable[[httpx.AsyncClient], Awaitable[object]]], None]


@pytest.fixture
def talk(shop: ModuleType, usercontext_recorder: RecordingClient) -> Talk:
    """Run a conversation with the app."""

    async def with_client(conversation: Callable[[httpx.AsyncClient], Awaitable[object]]) -> None:
        transport = httpx.ASGITransport(shop.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
            await conversation(client)

    return lambda conversation: asyncio.run(with_client(conversation))


async def log_in(client: httpx.AsyncClient, username: str) -> dict[str, str]:
    """Return the headers that a customer sends from now on."""
    answer = await client.post("/login", json={"username": username})
    return {"authorization": f"Bearer {answer.json()['token']}"}


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders/7"),
        ("GET", "/stock/7"),
        ("POST", "/orders/7/invoice"),
        ("GET", "/orders/7/export"),
        ("POST", "/orders/7/photo"),
    ],
)
def test_a_report_names_its_customer(
    talk: Talk, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Endpoints in a thread, background tasks and streams report the customer like any other."""

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.request(method, path, headers=await log_in(client, "ada"))

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """A request without a token is reported with its address only, also after somebody's."""

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.get("/orders/7", headers=await log_in(client, "ada"))
        await client.get("/orders/8")

    talk(conversation)
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_customers_at_the_same_time(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Requests that run at once each report their own customer."""
    names = ["ada", "bob", "cleo", "dan"]

    async def conversation(client: httpx.AsyncClient) -> None:
        customers = [await log_in(client, name) for name in names]
        await asyncio.gather(
            *[client.get(f"/orders/{10 + i}", headers=customers[i % 4]) for i in range(40)]
        )

    talk(conversation)
    expected = {f"http://shop.example/orders/{10 + i}": names[i % 4] for i in range(40)}
    found = {
        event["request"]["url"]: event["user"]["username"] for event in usercontext_recorder.events
    }
    assert found == expected


def test_an_admin_acts_as_a_customer(talk: Talk, usercontext_recorder: RecordingClient) -> None:
    """Within `use_user` a report names the customer, although the admin made the request."""

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.get("/as/bob/orders/7", headers=await log_in(client, "admin"))

    talk(conversation)
    assert reported(usercontext_recorder) == ["bob"]


def test_the_current_user_is_a_dependency(talk: Talk) -> None:
    """`CurrentUser` hands an endpoint the user that a report would name, or nobody."""

    async def conversation(client: httpx.AsyncClient) -> None:
        answer = await client.get("/me", headers=await log_in(client, "ada"))
        assert answer.json()["username"] == "ada"

    talk(conversation)


def test_a_required_user_is_let_in(talk: Talk) -> None:
    """`RequiredUser` answers 401 to visitors."""

    async def conversation(client: httpx.AsyncClient) -> None:
        customer = await client.get("/basket", headers=await log_in(client, "ada"))
        visitor = await client.get("/basket")
        assert (customer.json(), visitor.status_code) == ({"basket of": "ada"}, 401)

    talk(conversation)


def test_the_page_of_a_500_knows_the_customer(talk: Talk) -> None:
    """The handler that apologises says to whom."""

    async def conversation(client: httpx.AsyncClient) -> None:
        answer = await client.get("/orders/7", headers=await log_in(client, "ada"))
        assert answer.json() == {"sorry": "ada"}

    talk(conversation)
