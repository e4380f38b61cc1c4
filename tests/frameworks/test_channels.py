"""Channels: what a websocket's consumer reports names who opened the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")
pytest.importorskip("channels")

from tests.frameworks.django_project import log_in, migrate

# isort: split
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack, UserLazyObject, login
from channels.generic.websocket import (
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import connections
from django.test import override_settings
from django.urls import path

from usercontext import asgi, capture_message, get_user, set_user
from usercontext.core.record import UNKNOWN
from usercontext.frameworks.channels import UserContextMiddleware, scope_user

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from usercontext.testing import RecordingClient


class Chat(AsyncWebsocketConsumer):
    """Answers with who is seen, and does what it is told."""

    groups = ("everybody",)

    async def receive(self, text_data: str) -> None:
        """Report, fail, log somebody in, or just say who it is."""
        if text_data == "report":
            capture_message("hello")
        if text_data == "fail":
            raise LookupError("no such thing")
        if text_data.startswith("login "):
            account = await User.objects.aget(username=text_data.removeprefix("login "))
            await login(self.scope, account)
            set_user(account)
        await self.said()

    async def said(self, event: object = None) -> None:
        """Say who is seen, also when a message of the group comes in."""
        user = get_user()
        await self.send("nobody" if user is None else str(user.username))


class SyncChat(WebsocketConsumer):
    """Does the same in a thread."""

    def receive(self, text_data: str) -> None:
        """Report, fail, or just say who it is."""
        if text_data == "report":
            capture_message("hello")
        if text_data == "fail":
            raise LookupError("no such thing")
        user = get_user()
        self.send("nobody" if user is None else str(user.username))


routes = URLRouter([path("async", Chat.as_asgi()), path("sync", SyncChat.as_asgi())])
inside = AuthMiddlewareStack(UserContextMiddleware(routes))
outside = UserContextMiddleware(AuthMiddlewareStack(routes))
everywhere = asgi.UserContextMiddleware(ProtocolTypeRouter({"websocket": inside}))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    migrate()
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=layers):
        yield
    connections.close_all()


def connect(app: Any, target: str = "async", name: str | None = None) -> WebsocketCommunicator:
    """Make a browser that opens a websocket, logged in or not."""
    headers = [] if name is None else [(b"cookie", log_in(name).encode())]
    return WebsocketCommunicator(app, f"/{target}", headers)


def converse(conversation: Callable[[], Awaitable[Any]]) -> Any:
    """Run a conversation, and close what it opened of the database."""

    async def run() -> Any:
        try:
            return await conversation()
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(run())


async def ask(browser: WebsocketCommunicator, text: str) -> str:
    """Send a message; return the answer."""
    await browser.send_to(text_data=text)
    answer: str = await browser.receive_from()
    return answer


def names(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize("app", [inside, everywhere])
@pytest.mark.parametrize("target", ["async", "sync"])
@pytest.mark.parametrize("name", ["ada", None])
def test_a_consumer_reports_its_user(
    app: Any, target: str, name: str | None, usercontext_recorder: RecordingClient
) -> None:
    """Inside of AuthMiddlewareStack, alone or with one around everything."""
    browser = connect(app, target, name)

    async def conversation() -> None:
        await browser.connect()
        assert await ask(browser, "report") == (name or "nobody")
        await browser.disconnect()

    converse(conversation)
    assert names(usercontext_recorder) == [name]


@pytest.mark.parametrize("target", ["async", "sync"])
def test_a_consumers_error_names_its_user(
    target: str, usercontext_recorder: RecordingClient
) -> None:
    """An error that ends a connection is reported once, and passes on."""
    browser = connect(inside, target, "ada")

    async def conversation() -> None:
        await browser.connect()
        await browser.send_to(text_data="fail")
        with pytest.raises(LookupError):
            await browser.wait()

    converse(conversation)
    assert names(usercontext_recorder) == ["ada"]


def test_connections_are_told_apart() -> None:
    """Each sees its own user, at a message of its own and at one of the group."""
    ada, bob = connect(inside, name="ada"), connect(inside, name="bob")

    async def conversation() -> list[str]:
        await ada.connect()
        await bob.connect()
        said = [await ask(ada, "who"), await ask(bob, "who"), await ask(ada, "who")]
        await get_channel_layer().group_send("everybody", {"type": "said"})
        said += [await ada.receive_from(), await bob.receive_from()]
        await ada.disconnect()
        await bob.disconnect()
        return said

    assert converse(conversation) == ["ada", "bob", "ada", "ada", "bob"]


def test_who_logs_in_while_connected_is_set(usercontext_recorder: RecordingClient) -> None:
    """A consumer's scope is a copy: after `login()` the user is told with `set_user()`."""
    log_in("bob")
    browser = connect(inside)

    async def conversation() -> None:
        await browser.connect()
        assert await ask(browser, "who") == "nobody"
        assert await ask(browser, "login bob") == "bob"
        assert await ask(browser, "report") == "bob"
        await browser.disconnect()

    converse(conversation)
    assert names(usercontext_recorder) == ["bob"]


def test_outside_of_the_authentication_it_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There nobody is ever known, and the log names the right order, once."""
    browser = connect(outside, name="ada")

    async def conversation() -> None:
        await browser.connect()
        for _ in range(2):
            assert await ask(browser, "who") == "nobody"
        await browser.disconnect()

    converse(conversation)
    (message,) = caplog.messages
    assert "AuthMiddlewareStack(UserContextMiddleware(URLRouter(...)))" in message


def test_a_resolver_of_ones_own_takes_the_scope(usercontext_recorder: RecordingClient) -> None:
    """What consumers have as `self.scope`, with the route and the session."""

    def resolver(scope: dict[str, Any]) -> dict[str, Any]:
        return {"id": scope["path"]}

    browser = connect(UserContextMiddleware(routes, resolver=resolver), "sync")

    async def conversation() -> None:
        await browser.connect()
        await ask(browser, "report")
        await browser.disconnect()

    converse(conversation)
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "/sync"}]


@pytest.mark.parametrize(
    "scope", [{"type": "http"}, {"type": "websocket", "user": UserLazyObject()}]
)
def test_what_is_not_known_yet_stays_open(scope: dict[str, Any]) -> None:
    """A request of Django's own has no user in its scope, and AuthMiddleware fills one in late."""
    assert scope_user(scope) is UNKNOWN
