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
    """Repeats a step on a thread of its own, for as long as the step returns True.

    Args:
        name: the thread's name.
        step: what to do; it returns whether to go on. On a daemon thread it waits for something
            to do; on another it does not, as the interpreter ends only after that one.
        end: called on the thread when it is over.
        has_more: tells whether there is something to do by now. None: there is a daemon thread
            or none.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        end: Callable[[], None],
        has_more: Callable[[], bool] | None = None,
    ) -> None:
        self._name = name
        self._step = step
        self._end = end
        self._has_more = has_more
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
            if uwsgi.runs_without_threads():
                return self._thread is not None
            if self._thread is None:
                self._thread = self._started(daemon=True)
            if self._thread is None and self._has_more is not None:
                # A subinterpreter lets no daemon thread run.
                self._thread = self._started(daemon=False)
            return self._thread is not None

    def _started(self, *, daemon: bool) -> threading.Thread | None:
        try:
            return start_thread(self._run, self._changed, name=self._name, daemon=daemon)
        except RuntimeError:
            return None

    def wait(self, timeout: float) -> bool:
        """Wait until there is no thread; return whether it was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, max(0.0, timeout))

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended as the system sees it, too."""
        thread = self._thread
        if thread is not None:
            thread.join(max(0.0, timeout))

    def _run(self, changed: threading.Condition) -> None:
        try:
            with own_work:
                try:
                    while self._step() or not self._ends(changed):
                        pass
                finally:
                    if changed is self._changed:
                        self._end()
        finally:
            # Whatever ended it, who needs it next starts another one. With another condition
            # by now, this thread has forked, and is in a child that has its own.
            with changed:
                if changed is self._changed:
                    self._thread = None
                    changed.notify_all()

    def _ends(self, changed: threading.Condition) -> bool:
        """Settle that the thread ends, unless something came while it made up its mind."""
        with changed:
            if self._has_more is not None and self._has_more():
                return False
            if changed is self._changed:
                self._thread = None
            return True
