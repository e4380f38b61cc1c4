"""A few threads for resolvers that block.

The loop's own worker threads are the app's: a database that does not answer would take them all,
and with them the app's `to_thread` and name look-ups.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from usercontext.event_loop import start_thread, waiter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_in_thread"]

T = TypeVar("T")

_MOST_THREADS: Final = 8
#: How long the end of the interpreter waits for resolvers that have not answered.
_END_SECONDS: Final = 0.5
_NAME: Final = "usercontext-resolver-thread"


class _Call:
    """One call of a function, in the context that it was asked for in."""

    __slots__ = ("_context", "_run", "_wake", "error", "is_given_up", "result")

    def __init__(self, run: Callable[[], Any], wake: Callable[[], object]) -> None:
        self._context = copy_context()
        self._run = run
        self._wake = wake
        self.is_given_up = False
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        if self.is_given_up:
            return
        try:
            self.result = self._context.run(self._run)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the call was made
            self.error = error
        try:
            self._wake()
        except RuntimeError:  # the loop has been closed meanwhile: nobody waits any more
            return


class _Threads:
    """Threads that are started as calls come, as long as all of them are busy."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0
        self._waiting: list[threading.Thread] = []

    def submit(self, call: _Call) -> None:
        with self._lock:
            must_start = self._idle == 0 and self._started < _MOST_THREADS
            if must_start:
                self._started += 1
            elif self._idle:
                self._idle -= 1
            self._calls.put(call)
        if must_start:
            self._start()

    def _start(self) -> None:
        try:
            try:
                self._waiting.append(start_thread(self._work, name=_NAME))
            except RuntimeError:  # a subinterpreter lets no daemon thread run
                start_thread(self._work_off, name=_NAME, daemon=False)
        except RuntimeError:  # the process may have no more threads
            with self._lock:
                self._started -= 1
            raise

    def end(self) -> None:
        """Let the threads end, as a subinterpreter cannot beside them."""
        for _ in self._waiting:
            self._calls.put(None)
        deadline = monotonic() + _END_SECONDS
        for thread in self._waiting:
            thread.join(max(0.0, deadline - monotonic()))

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> _Call | None:
        try:
            return self._calls.get_nowait()
        except Empty:
            with self._lock:
                self._idle += 1
            return self._calls.get()

    def _work_off(self) -> None:
        """Run what there is, and end: the interpreter ends only after this thread."""
        while (call := self._next_or_end()) is not None:
            call()

    def _next_or_end(self) -> _Call | None:
        with self._lock:
            try:
                return self._calls.get_nowait()
            except Empty:
                self._started -= 1
                return None


_threads = _Threads()
atexit.register(_threads.end)


def _forget() -> None:
    # The child of a fork has none of the parent's threads.
    global _threads  # noqa: PLW0603
    atexit.unregister(_threads.end)
    _threads = _Threads()
    atexit.register(_threads.end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def run_in_thread(function: Callable[..., T], *args: object) -> T:
    """Run a function in one of the threads, in this context, and await its result.

    Who stops waiting, as by a time limit, takes a call back that has not begun.
    """
    wake, wait = waiter()
    call = _Call(lambda: function(*args), wake)
    try:
        _threads.submit(call)
        await wait()
    finally:
        call.is_given_up = True
    if call.error is not None:
        raise call.error
    result: T = call.result
    return result
