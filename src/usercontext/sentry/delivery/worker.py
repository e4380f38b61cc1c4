"""A thread of ours: started when there is something to do, and never in a request's context."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from usercontext.event_loop import start_thread
from usercontext.sentry.delivery import uwsgi
from usercontext.sentry.delivery.own_work import own_work

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]


class Worker:
    """Repeats a step on a daemon thread of its own, for as long as the step returns True.

    Args:
        name: the thread's name.
        step: what to do; it waits for something to do, and returns whether to go on.
        end: called on the thread when it is over.
    """

    def __init__(self, name: str, step: Callable[[], bool], end: Callable[[], None]) -> None:
        self._name = name
        self._step = step
        self._end = end
        self.reset()

    def reset(self) -> None:
        """Forget the thread, which the child of a fork does not have."""
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def start(self) -> bool:
        """Start the thread if there is none; return whether one runs.

        There may be none to have: the interpreter is shutting down, the system has no more
        threads, or the server lets none run.
        """
        with self._changed:
            if self._thread is None and not uwsgi.runs_without_threads():
                try:
                    self._thread = start_thread(self._run, self._changed, name=self._name)
                except RuntimeError:
                    return False
            return self._thread is not None

    def wait(self, timeout: float) -> bool:
        """Wait until there is no thread; return whether it was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, max(0.0, timeout))

    def _run(self, changed: threading.Condition) -> None:
        try:
            with own_work:
                try:
                    while self._step():
                        pass
                finally:
                    if changed is self._changed:
                        self._end()
        finally:
            # Whatever ended it, whoever needs it next starts another one. With another condition
            # by now, this thread has forked, and is in a child that has its own.
            with changed:
                if changed is self._changed:
                    self._thread = None
                    changed.notify_all()
