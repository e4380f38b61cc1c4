"""Flushing and closing from event loops, and at the end of an ASGI lifespan."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
import usercontext.sentry
from usercontext.asgi import UserContextMiddleware
from usercontext.sentry import SentryClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


class Slow:
    """A transport whose flush takes until it is told to end."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[str] = []

    def flush(self, timeout: float = 2.0) -> bool:
        self.calls.append("flush")
        return self.go_on.wait(timeout)

    def close(self, timeout: float = 2.0) -> bool:
        self.calls.append("close")
        return self.go_on.wait(timeout)

    def has_room(self) -> bool:
        return True

    def submit(self, event: dict[str, Any], /) -> bool:
        return True

    def discard(self, reason: str, /) -> None:
        pass

    def stats(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def slow() -> Slow:
    """A transport that takes its time."""
    return Slow()


async def while_waiting(slow: Slow, method: Callable[[float], Awaitable[bool]]) -> bool:
    """Wait for a flush that only ends when the loop goes on meanwhile."""
    task = asyncio.ensure_future(method(20.0))
    while not slow.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    slow.go_on.set()
    return await task


@pytest.mark.parametrize("name", ["flush", "close"])
def test_loop_goes_on(slow: Slow, name: str) -> None:
    """`aflush()` and `aclose()` block no event loop."""
    client = SentryClient(transport=slow)

    assert asyncio.run(while_waiting(slow, getattr(client, f"a{name}")))
    assert slow.calls == [name]


def test_late(slow: Slow) -> None:
    """Their result is that of the call they stand for."""
    assert not asyncio.run(SentryClient(transport=slow).aflush(0.01))


@pytest.mark.parametrize("name", ["flush", "close"])
def test_of_the_module(slow: Slow, name: str) -> None:
    """So do those of the module, for the client of `init()`."""
    usercontext.init(client=SentryClient(transport=slow))

    assert asyncio.run(while_waiting(slow, getattr(usercontext, f"a{name}")))
    assert slow.calls == [name]


def test_no_worker_thread_is_needed(slow: Slow) -> None:
    """The app may have taken every worker thread of its loop."""
    slow.go_on.set()

    async def run() -> bool:
        busy = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        task = loop.run_in_executor(None, busy.wait)
        try:
            return await asyncio.wait_for(SentryClient(transport=slow).aflush(5.0), 10.0)
        finally:
            busy.set()
            await task

    assert asyncio.run(run())


def test_cancelled(slow: Slow) -> None:
    """Cancelled, they leave the loop at once, which may be gone when the thread is through."""
    client = SentryClient(transport=slow)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.aflush(20.0), 0.01)

    asyncio.run(run())
    slow.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "usercontext-flush":
            thread.join(10)


def test_trio(slow: Slow) -> None:
    """They work on trio as well."""
    trio = pytest.importorskip("trio")
    slow.go_on.set()

    assert trio.run(SentryClient(transport=slow).aflush)


def test_no_threads(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, they flush on the loop's own."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    slow.go_on.set()
    monkeypatch.setattr(threading.Thread, "start", refuse)

    assert asyncio.run(SentryClient(transport=slow).aflush())


async def lifespan_app(scope: Any, receive: Any, send: Any) -> None:
    """Start and stop."""
    await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def test_end_of_a_lifespan(slow: Slow) -> None:
    """The end of a lifespan flushes: before the server is told, which may then end at once."""
    slow.go_on.set()
    usercontext.init(client=SentryClient(transport=slow))
    seen: list[Any] = []

    async def send(message: Any) -> None:
        seen.append((message["type"], list(slow.calls)))

    app: Any = UserContextMiddleware(lifespan_app)
    asyncio.run(app({"type": "lifespan"}, None, send))

    assert seen == [("lifespan.startup.complete", []), ("lifespan.shutdown.complete", ["flush"])]


def test_end_of_a_lifespan_with_a_file(tmp_path: Path) -> None:
    """What was captured is there when the app has ended."""
    usercontext.init(f"sqlite:///{tmp_path}/reports.db")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        usercontext.capture_message("bye")

    wrapped: Any = UserContextMiddleware(app)
    asyncio.run(wrapped({"type": "lifespan"}, None, None))

    assert len(list(usercontext.sentry.read_reports(tmp_path / "reports.db"))) == 1
