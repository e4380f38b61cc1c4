"""`flush="response"`: what a request reports is at the server before its response ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import environ_of, scope_of
from usercontext import ConfigurationError, asgi, capture_message, wsgi
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

START = {"type": "http.response.start", "status": 200, "headers": []}
ERROR = {"type": "http.response.start", "status": 500, "headers": []}
END = {"type": "http.response.body", "body": b""}


class Sending(RecordingClient):
    """A client that sends when it is flushed; `events` are those that have arrived."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__()
        self.waiting: list[Any] = []
        self.slow = slow
        self.flushes = 0

    def send(self, event: Any, **options: Any) -> str | None:
        self.waiting.append((event, options))
        return str(event["event_id"])

    def flush(self, timeout: float = 2.0) -> bool:
        self.flushes += 1
        waiting, self.waiting = ([], self.waiting) if self.slow else (self.waiting, [])
        for event, options in waiting:
            super().send(event, **options)
        return not self.slow

    def stats(self) -> dict[str, Any]:
        return {"queued": len(self.waiting)}


@pytest.fixture
def sending() -> Iterator[Sending]:
    """The client, with the option."""
    client = Sending()
    usercontext.init(client=client, flush="response")
    yield client
    client.waiting.clear()


def serve_asgi(app: Any, client: Sending, **options: Any) -> list[tuple[str, int]]:
    """Serve a request; return each message, and how many reports had arrived before it."""
    seen: list[tuple[str, int]] = []

    async def send(message: Any) -> None:
        seen.append((message["type"].removeprefix("http.response."), len(client.events)))

    async def receive() -> Any:
        seen.append(("receive", len(client.events)))
        return {"type": "http.disconnect"}

    async def serve() -> None:
        try:
            await asgi.UserContextMiddleware(app, **options)(scope_of(), receive, send)
        except LookupError:
            seen.append(("raised", len(client.events)))

    asyncio.run(serve())
    return seen


def test_what_is_reported_in_a_request(sending: Sending) -> None:
    """It is sent before the last message goes to the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("first")
        await send(START)
        await send({**END, "more_body": True})
        capture_message("second")
        await send(END)

    assert serve_asgi(app, sending) == [("start", 0), ("body", 0), ("body", 2)]


def test_an_error_that_was_answered(sending: Sending) -> None:
    """A framework that answers 500 and then raises has its response end after the report."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ERROR)
        await send(END)
        raise LookupError("no such thing")

    assert serve_asgi(app, sending) == [("start", 0), ("body", 1), ("raised", 1)]


def test_an_error_that_nobody_answers(sending: Sending) -> None:
    """The server answers it, after we have sent the report."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such thing")

    assert serve_asgi(app, sending) == [("raised", 1)]


def test_an_app_that_waits_for_the_client_after_an_error(sending: Sending) -> None:
    """A response that is held back ends before anything is awaited of its client."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ERROR)
        await send(END)
        await receive()

    assert [name for name, _ in serve_asgi(app, sending)] == ["start", "body", "receive"]


def test_the_user_is_awaited(sending: Sending) -> None:
    """A report that waits for an async resolver is completed first."""

    async def resolver(_request: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"id": 7}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("seen")
        await send(START)
        await send(END)

    assert serve_asgi(app, sending, resolver=resolver)[-1] == ("body", 1)
    assert sending.events[0]["user"] == {"id": "7"}


def serve_wsgi(app: Any, client: Sending) -> list[tuple[str, int]]:
    """Serve a request; return each step, and how many reports had arrived by then."""
    seen: list[tuple[str, int]] = []
    middleware = wsgi.UserContextMiddleware(app)
    try:
        body = middleware(environ_of(), lambda *_: lambda _bytes: None)
    except LookupError:
        return [("raised", len(client.events))]
    seen.append(("returned", len(client.events)))
    try:
        seen.extend([("chunk", len(client.events)) for _ in body])
        seen.append(("over", len(client.events)))
    except LookupError:
        seen.append(("raised", len(client.events)))
    if hasattr(body, "close"):
        body.close()
    return [*seen, ("closed", len(client.events))]


def test_over_wsgi(sending: Sending) -> None:
    """A list of bytes, and what a body reports, have their reports sent before they end."""

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        capture_message("first")
        return [b""]

    def streamed(environ: Any, start_response: Any) -> Iterator[bytes]:
        capture_message("first")
        yield b"x"
        capture_message("second")

    assert serve_wsgi(plain, sending)[0] == ("returned", 1)
    assert ("over", 3) in serve_wsgi(streamed, sending)


def test_an_error_over_wsgi(sending: Sending) -> None:
    """An error in the call or in the body is sent before the server learns of it."""

    def called(environ: Any, start_response: Any) -> list[bytes]:
        raise LookupError("no such thing")

    def streamed(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield b"x"
        raise LookupError("no such thing")

    assert serve_wsgi(called, sending) == [("raised", 1)]
    assert serve_wsgi(streamed, sending)[-1] == ("closed", 2)


def test_most_requests_wait_for_nothing(sending: Sending) -> None:
    """Where nothing was reported nothing is flushed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(END)

    serve_asgi(app, sending)
    assert sending.flushes == 0


def test_a_slow_server_is_left_alone() -> None:
    """After one response that waited in vain the next ones do not."""
    client = Sending(slow=True)
    usercontext.init(client=client, flush="response")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("seen")
        await send(START)
        await send(END)

    began = time.monotonic()
    for _ in range(3):
        serve_asgi(app, client)
    assert client.flushes == 1
    assert time.monotonic() - began < 10
    client.slow = False


def test_a_wrong_value() -> None:
    """The option has one value."""
    with pytest.raises(ConfigurationError, match="flush"):
        usercontext.init(None, flush="request")
