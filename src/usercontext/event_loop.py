"""Waiting, time limits and threads on whichever event loop runs: asyncio's or trio's.

Nothing is imported before a loop is seen to run: an app on WSGI never loads asyncio.
"""

from __future__ import annotations

import sys
import threading
from _contextvars import Context  # one module fewer to load than by `contextvars`
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = [
    "is_running",
    "run_blocking",
    "run_in_own_thread",
    "run_within",
    "start_task",
    "start_thread",
    "waiter",
]

T = TypeVar("T")

#: How long the end of the interpreter waits for a thread of ours that still works.
_END_SECONDS = 0.5


def _on_asyncio() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _on_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def is_running() -> bool:
    """Return whether this thread runs an event loop, and so must not be made to wait."""
    return _on_asyncio() or _on_trio()


def waiter() -> tuple[Callable[[], object], Callable[[], Awaitable[object]]]:
    """Return a call that wakes, from any thread, and one whose awaitable waits for that."""
    if _on_asyncio():
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        return lambda: loop.call_soon_threadsafe(_answer, future), lambda: future
    import trio

    event = trio.Event()
    token = trio.lowlevel.current_trio_token()
    return lambda: token.run_sync_soon(event.set), event.wait


def _answer(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def run_within(seconds: float, function: Callable[[], Awaitable[object]]) -> bool:
    """Await `function()` for at most so many seconds; return whether it ended in time."""
    if _on_asyncio():
        import asyncio

        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await function()
        except TimeoutError:
            if not limit.expired():
                raise
        return not limit.expired()
    import trio

    with trio.move_on_after(seconds) as scope:
        await function()
    return not scope.cancelled_caught


def start_task(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task of the running loop that nobody waits for, in an empty context."""
    if _on_asyncio():
        import asyncio

        task = asyncio.get_running_loop().create_task(function(), context=Context())
        # The loop itself keeps a weak reference alone.
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return
    import trio

    trio.lowlevel.spawn_system_task(function, context=Context())


_tasks: set[asyncio.Task[None]] = set()


async def run_in_own_thread(function: Callable[[float], bool], seconds: float) -> bool:
    """Run what waits for at most so many seconds on a thread of its own, and await its end.

    Not in the loop's worker threads: those may all be taken by what the app does.
    """
    wake, wait = waiter()
    results = []

    def run() -> None:
        try:
            results.append(function(seconds))
        finally:
            with suppress(RuntimeError):  # The loop has not waited, and is closed.
                wake()

    try:
        start_thread(run, name="usercontext-flush")
    except RuntimeError:  # There are no more threads: better a short stop than a lost report.
        return function(seconds)
    await wait()
    return all(results) and bool(results)


def start_thread(
    target: Callable[..., object], *args: object, name: str, daemon: bool = True
) -> threading.Thread:
    """Start a thread in an empty context.

    With `thread_inherit_context` a thread of ours would else show the user of the request that
    happened to start it, for as long as it lives.

    Args:
        target: what it runs.
        *args: what `target` is called with.
        name: the thread's name.
        daemon: whether the interpreter may end before the thread. One that may not has to end
            by itself; in most subinterpreters there is no other kind.

    Raises:
        RuntimeError: the process may have no more threads, the interpreter is ending, or it lets
            no daemon thread run.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=daemon)
    Context().run(thread.start)
    return thread


class _Background:
    """One event loop in a thread of its own, made on first use, and once more after a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        import asyncio
        import atexit

        with self.lock:
            if self.loop is None:
                loop = asyncio.new_event_loop()
                try:
                    thread = start_thread(loop.run_forever, name="usercontext-resolver")
                except RuntimeError:
                    loop.close()
                    raise
                self.loop = loop
                atexit.register(self._end, loop, thread)
            return self.loop

    def _end(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        # A subinterpreter cannot end beside a thread of its own.
        with self.lock:
            if self.loop is loop:
                self.loop = None
                loop.call_soon_threadsafe(loop.stop)
        thread.join(_END_SECONDS)


_background = _Background()


def _forget_background() -> None:
    # The child of a fork has the parent's loop but not the thread that ran it.
    global _background  # noqa: PLW0603
    _background = _Background()


if sys.platform != "win32":
    import os

    os.register_at_fork(after_in_child=_forget_background)


def run_blocking(
    function: Callable[..., Coroutine[Any, Any, T]], *args: object, timeout: float
) -> T:
    """Run a coroutine to its end from a thread that runs no event loop.

    One background loop serves them all (45 us a call, where `asyncio.run` costs 158); under
    gevent each call gets a loop in the hub's native thread pool.

    Raises:
        TimeoutError: it did not end within `timeout` seconds, and was cancelled.
    """
    if _is_patched_by_gevent():
        return _run_in_native_pool(function, args, timeout)
    import asyncio

    try:
        loop = _background.get()
    except RuntimeError:  # a subinterpreter lets no thread run for as long as it lives
        return _run_here(function, args, timeout)
    future = asyncio.run_coroutine_threadsafe(function(*args), loop)
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise


def _run_here(
    function: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...], timeout: float
) -> T:
    import asyncio

    # `asyncio.run` would take the thread's own loop away from the app.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(function(*args), timeout))
    finally:
        loop.close()


def _is_patched_by_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _run_in_native_pool(
    function: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...], timeout: float
) -> T:
    import asyncio
    from contextvars import copy_context

    import gevent

    def run() -> T:
        return asyncio.run(asyncio.wait_for(function(*args), timeout))

    context = copy_context()
    result: T = gevent.get_hub().threadpool.spawn(context.run, run).get()
    return result
