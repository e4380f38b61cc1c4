"""Reports wait here: a bounded queue, the thread that empties it, and the count of both.

What becomes of a report is a subclass's matter: `deliver` sends it, or keeps it. Everything
else (room, threads, forks, exit, flushing) is the same for all.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import deque
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from usercontext.diagnostics import failure
from usercontext.sentry.delivery import uwsgi
from usercontext.sentry.event.size import estimate_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.types import Event

__all__ = [
    "KEPT",
    "UNREPORTED_BACKOFF",
    "BackgroundTransport",
    "in_own_work",
    "own_work",
    "start_thread",
]

#: Counted as `ratelimit_backoff`, but not reported: a server counts what it answered 429 itself.
UNREPORTED_BACKOFF = "429"
#: What `deliver` returns of an event that is safe, although its end is not known yet.
KEPT = "kept"
_BACKOFF = "ratelimit_backoff"
# A transport may be told reasons of the app's own; each must fit into a client report.
_MAX_REASON = 100
# How long a worker of uwsgi without threads sends after a response, and leaves a server alone that
# takes longer.
_AFTER_REQUEST_SECONDS = 2.0
_REST_SECONDS = 30.0


class _OwnWork(threading.local):
    """Marks what a thread does in a `with` block as ours; a class, as each capture enters it."""

    depth: int = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self.depth -= 1


own_work: _OwnWork = _OwnWork()


def in_own_work() -> bool:
    """Return whether this thread is building or sending a report right now.

    What is logged or raised meanwhile is ours, and reporting it would never end.
    """
    return own_work.depth > 0


class BackgroundTransport:
    """Delivers events one after the other on a daemon thread, which starts with the first.

    Every event counts once: `captured = sent + queued + discarded`, at any time. After a fork
    the child begins anew and empty; what the parent had queued stays the parent's.

    Args:
        max_queue: how many events may wait.
        max_queue_bytes: about how much memory they may take; a single one is always let in.
        drop_oldest: whether the oldest waiting event makes room for a new one.
        shutdown_timeout: how many seconds the interpreter waits at exit for the rest.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        max_queue_bytes: int,
        shutdown_timeout: float = 2.0,
        drop_oldest: bool = False,
    ) -> None:
        self._max_queue = max_queue
        self._drop_oldest = drop_oldest
        self._max_queue_bytes = max_queue_bytes
        self._shutdown_timeout = shutdown_timeout
        self._closed = False
        self._begin()
        _transports.add(self)
        atexit.register(self._at_exit)
        _flush_in_multiprocessing()
        if uwsgi.runs_without_threads():
            uwsgi.call_after_each_request(_send_after_request)

    # What a subclass makes of it

    def deliver(self, event: Event) -> str | None:
        """Send or keep one event; return None, KEPT, or the reason why it was discarded."""
        raise NotImplementedError

    def deliver_last(self, event: Event) -> str | None:
        """Do what can be done at once for an event that is still queued when we are closed."""
        del event
        return "network_error"

    def release(self) -> None:
        """Close what `deliver` has opened; called on the thread that delivers."""

    def abandon(self) -> None:
        """Forget, without closing, what the parent process has opened; called in a child."""

    def before_fork(self) -> None:
        """Put away what must not be open when this process forks."""

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""

    # What the client calls

    def has_room(self) -> bool:
        """Return whether an event would be taken now; asked before one is built."""
        if self._closed:
            return False
        if self._drop_oldest:
            return True
        return len(self._queue) < self._max_queue and self._bytes < self._max_queue_bytes

    def submit(self, event: Event) -> bool:
        """Queue an event and return at once; False if there is no room, which is counted."""
        self._after_fork_unseen()
        weight = estimate_size(event, self._max_queue_bytes)
        with self._wake:
            self._captured += 1
            if self._drop_oldest:
                self._make_room(weight)
            if not self._fits(weight):
                self._count_discarded("queue_overflow")
                return False
            self._submitted += 1
            self._queue.append((event, weight, self._submitted))
            self._bytes += weight
            self._wake.notify_all()
        if self._thread is None:
            self._ensure_thread()
        return True

    def discard(self, reason: str) -> None:
        """Count an event that was dropped before it came here."""
        self._after_fork_unseen()
        with self._wake:
            self._captured += 1
            self._count_discarded(reason)

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all that was submitted before is dealt with; return whether it is."""
        self._after_fork_unseen()
        if in_own_work():
            return False
        deadline = monotonic() + max(0.0, timeout)
        with self._wake:
            target = self._submitted
            self._hurried += 1
            self._wake.notify_all()
        try:
            if not self._is_through(target) and not self._ensure_thread():
                # In an empty context, as the thread's: what is logged meanwhile is not a request's.
                Context().run(self._deliver_here, target, deadline)
            with self._wake:
                return self._wake.wait_for(
                    lambda: self._is_through(target), max(0.0, deadline - monotonic())
                )
        finally:
            with self._wake:
                self._hurried -= 1

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop for good; what is still queued is discarded, and counted."""
        in_time = self.flush(timeout)
        with self._wake:
            self._closed = True
            left = [self._pop() for _ in range(len(self._queue))]
            self._wake.notify_all()
        for event, number in left:
            self._deliver_counted(event, number, self.deliver_last)
        if self._thread is None:
            self._release_safely()
        atexit.unregister(self._at_exit)
        return in_time

    def stats(self) -> dict[str, Any]:
        """Return how many events were captured, sent, are queued, and were discarded for what."""
        with self._wake:
            return {
                "captured": self._captured,
                "sent": self._sent,
                "queued": self._submitted - self._done,
                "discarded": dict(self._discarded),
            }

    # The queue

    def _begin(self) -> None:
        """Set all that belongs to one process."""
        # Reentrant: a signal handler or finalizer may capture on the thread that holds it.
        self._wake = threading.Condition(threading.RLock())
        self._queue: deque[tuple[Event, int, int]] = deque()
        self._delivering: set[int] = set()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._bytes = self._captured = self._sent = self._submitted = self._done = 0
        self._hurried = 0
        self._rests_until = 0.0
        self._discarded: dict[str, int] = {}
        self._unreported: dict[str, int] = {}

    def _fits(self, weight: int) -> bool:
        if self._closed or len(self._queue) >= self._max_queue:
            return False
        return not self._queue or self._bytes + weight <= self._max_queue_bytes

    def _make_room(self, weight: int) -> None:
        while self._queue and not self._fits(weight) and not self._closed:
            _, number = self._pop()
            self._finish(number, "queue_overflow")

    def _pop(self) -> tuple[Event, int]:
        event, weight, number = self._queue.popleft()
        self._bytes -= weight
        self._delivering.add(number)
        return event, number

    def _is_through(self, target: int) -> bool:
        """Return whether all up to the event of a number is dealt with."""
        if self._queue and self._queue[0][2] <= target:
            return False
        return not any(number <= target for number in self._delivering)

    def _finish(self, number: int, reason: str | None) -> None:
        """Count what became of an event that was queued."""
        self._delivering.discard(number)
        if reason != KEPT:
            self._count(reason)
        self._wake.notify_all()

    def _count(self, reason: str | None) -> None:
        """Count the end of an event that was queued once."""
        self._done += 1
        if reason is None:
            self._sent += 1
        else:
            self._count_discarded(reason)

    def _count_discarded(self, reason: str) -> None:
        if reason == UNREPORTED_BACKOFF:
            self._discarded[_BACKOFF] = self._discarded.get(_BACKOFF, 0) + 1
            return
        reason = reason[:_MAX_REASON]
        self._discarded[reason] = self._discarded.get(reason, 0) + 1
        self._unreported[reason] = self._unreported.get(reason, 0) + 1

    def _take_unreported(self) -> dict[str, int]:
        """Return what was discarded since last asked, by reason; read and reset in one step."""
        with self._wake:
            unreported, self._unreported = self._unreported, {}
        return unreported

    def _give_back_unreported(self, unreported: dict[str, int]) -> None:
        """Count again what a report of it did not arrive."""
        with self._wake:
            for reason, quantity in unreported.items():
                self._unreported[reason] = self._unreported.get(reason, 0) + quantity

    def _pause(self, seconds: float) -> None:
        """Wait on the delivering thread, unless somebody waits for us."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._hurried > 0, seconds)

    # The thread

    def _ensure_thread(self) -> bool:
        """Start the thread if there is none; return whether one runs."""
        with self._wake:
            if self._thread is not None:
                return True
            if self._closed:
                return False
            self._thread = start_thread(self._run, "usercontext-reports")
            return self._thread is not None

    def _run(self) -> None:
        wake = self._wake
        try:
            with own_work:
                while self._deliver_next():
                    pass
                self._release_safely()
        finally:
            # Whatever ended it, the next report starts another one.
            with wake:
                if wake is self._wake:
                    self._thread = None

    def _deliver_next(self) -> bool:
        """Deliver one event, waiting for it; return whether there may be more."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return False
            event, number = self._pop()
        self._deliver_counted(event, number, self.deliver)
        return True

    def _deliver_counted(
        self, event: Event, number: int, deliver: Callable[[Event], str | None]
    ) -> None:
        wake = self._wake
        try:
            reason = deliver(event)
        except Exception:  # noqa: BLE001
            failure("delivery", "usercontext could not deliver a report and dropped it")
            reason = "internal_sdk_error"
        with wake:
            # Another lock by now: this thread forked, and is in a child that counts anew.
            if wake is self._wake:
                self._finish(number, reason)

    def _deliver_here(self, target: int, deadline: float) -> None:
        """Deliver on the calling thread, as no other can be had."""
        with own_work:
            while monotonic() < deadline:
                with self._wake:
                    if self._is_through(target) or not self._queue:
                        return
                    event, number = self._pop()
                self._deliver_counted(event, number, self.deliver)

    def _release_safely(self) -> None:
        try:
            self.release()
        except Exception:  # noqa: BLE001
            failure("transport close", "usercontext could not close its transport")

    def _after_request(self) -> None:
        """Send on a worker of uwsgi that lets no thread run; not again at once if it is slow."""
        if self.stats()["queued"] and monotonic() >= self._rests_until:
            is_through = self.flush(_AFTER_REQUEST_SECONDS)
            self._rests_until = 0.0 if is_through else monotonic() + _REST_SECONDS

    # Processes

    def _at_exit(self) -> None:
        if self._pid == os.getpid():
            self.flush(self._shutdown_timeout)

    def _after_fork_unseen(self) -> None:
        # Forked by C code (uwsgi), without Python's hooks.
        if self._pid != os.getpid():
            self._after_fork()

    def _after_fork(self) -> None:
        self._begin()
        self.abandon()


def start_thread(run: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a daemon thread; None if there can be none.

    The interpreter may be shutting down, the system have no more threads, or the server let none
    run: `flush()` does the work on its own thread then.
    """
    if uwsgi.runs_without_threads():
        return None
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        # Started in an empty context: with `thread_inherit_context` the thread would hold the
        # request during which it started for as long as it lives.
        Context().run(thread.start)
    except RuntimeError:
        return None
    return thread


_transports: WeakSet[BackgroundTransport] = WeakSet()


def _send_after_request() -> None:
    for transport in list(_transports):
        transport._after_request()


def _before_fork() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Its children forget all finalizers first, and then call what is registered so.
        util.register_after_fork(_transports, _finalize)
    for transport in list(_transports):
        transport.before_fork()


def _after_fork_in_parent() -> None:
    for transport in list(_transports):
        transport.after_fork_in_parent()


def _after_fork_in_child() -> None:
    own_work.depth = 0
    for transport in list(_transports):
        transport._after_fork()


def _flush_in_multiprocessing() -> None:
    """Flush at the end of a process of multiprocessing: it ends by `os._exit`, without atexit."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _finalize(_transports)


def _finalize(transports: WeakSet[BackgroundTransport]) -> None:
    from multiprocessing.util import Finalize

    def flush() -> None:
        for transport in list(transports):
            transport._at_exit()

    Finalize(None, flush, exitpriority=0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
