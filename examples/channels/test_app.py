"""The Channels example: every report names who opened the connection."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import setup_test_environment, teardown_test_environment

from usercontext.testing import RecordingClient


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the shop's database in a file, which threads share."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", str(path))
        yield path


@pytest.fixture(scope="module")
def prepared(database: Path, shop: ModuleType) -> Iterator[ModuleType]:
    """The app, with its customers."""
    setup_test_environment()
    shop.prepare()
    yield shop
    teardown_test_environment()
    connections.close_all()


def cookie_of(username: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of a browser that has logged in, or of one that has not."""
    if username is None:
        return []
    client = Client()
    client.post("/login", {"username": username, "password": f"{username}'s password"})
    return [(b"cookie", f"sessionid={client.cookies['sessionid'].value}".encode())]


def say(shop: ModuleType, target: str, text: str, username: str | None = None) -> str:
    """Open a websocket, send one message, and return the answer, or the error that came of it."""
    from asgiref.sync import sync_to_async
    from channels.testing import WebsocketCommunicator

    headers = cookie_of(username)

    async def conversation() -> str:
        browser = WebsocketCommunicator(shop.application, target, headers)
        await browser.connect()
        await browser.send_to(text_data=text)
        try:
            answer: str = await browser.receive_from()
        except KeyError as error:
            return repr(error)
        finally:
            await sync_to_async(connections.close_all)()
        await browser.disconnect()
        return answer

    return asyncio.run(conversation())


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


def test_a_report_names_its_customer(
    prepared: ModuleType, usercontext_recorder: RecordingClient
) -> None:
    """A consumer that fails, and one that reports from its thread."""
    assert say(prepared, "/chat", "order 7", "ada") == "KeyError(7)"
    assert say(prepared, "/help", "why?", "bob") == "we will look into it: why?"
    assert reported(usercontext_recorder) == ["ada", "bob"]


def test_a_visitor_is_reported_as_nobody(
    prepared: ModuleType, usercontext_recorder: RecordingClient
) -> None:
    """Who has not logged in is nobody, also after somebody's connection."""
    say(prepared, "/chat", "order 7", "ada")
    say(prepared, "/chat", "order 7")
    assert reported(usercontext_recorder) == ["ada", None]


def test_what_works_is_not_reported(
    prepared: ModuleType, usercontext_recorder: RecordingClient
) -> None:
    """An answer is not a report."""
    assert say(prepared, "/chat", "order 1", "ada") == "12.50"
    assert usercontext_recorder.events == []
