"""Takes events without blocking, and delivers them from a thread: queue, ledger and worker.

What becomes of an event is its destination's matter. Everything else (room, threads, forks, exit,
flushing) is the same for all.
"""

from __future__ import annotations

import os
import threading
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from usercontext.diagnostics import failure
from usercontext.sentry.delivery import processes
from usercontext.sentry.delivery.destination import KEPT
from usercontext.sentry.delivery.own_work import in_own_work, own_work
from usercontext.sentry.delivery.worker import Worker
from usercontext.sentry.event.draft import Draft
from usercontext.sentry.event.size import estimate_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usercontext.sentry.delivery.destination import Destination
    from usercontext.sentry.delivery.ledger import Ledger
    from usercontext.sentry.delivery.queue import Entry, Queue
    from usercontext.sentry.event.draft import Unfinished
    from usercontext.types import Event

    _More: TypeAlias = Callable[[], Event | None]

__all__ = ["QueuedTransport", "Transport"]

# How long a worker of uwsgi without threads sends after a response, and leaves a server alone that
# takes longer.
_AFTER_REQUEST_SECONDS = 2.0
_REST_SECONDS = 30.0
# How much longer than it was given `close()` may take to put into a file what is still queued.
_LAST_SECONDS = 0.5


class Transport(Protocol):
    """Takes finished events; `SentryClient(transport=...)` hands them to one of the app's own.

    The client asks `has_room` before it builds an event, and tells `discard` of each one that
    it drops itself, by the Sentry protocol's name of the reason.
    """

    def has_room(self) -> bool:
        """Return whether an event would be taken now."""

    def submit(self, event: Event, /) -> bool:
        """Take a finished event without blocking; return whether it was taken."""

    def discard(self, reason: str, /) -> None:
        """Count an event that was dropped on its way."""

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all events taken are dealt with; return whether it was in time."""

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop; return whether it was in time."""

    def stats(self) -> dict[str, Any]:
        """Return the numbers `captured`, `sent`, `queued`, and `discarded` by reason."""


class QueuedTransport:
    """Delivers events one after the other on a daemon thread, which starts with the first.

    After a fork the child begins empty and counts from zero; what the parent had queued stays
    the parent's.

    Args:
        destination: where events go.
        queue: where they wait.
        ledger: what counts them.
        shutdown_timeout: how many seconds the interpreter waits at exit for the rest.
    """

    def __init__(
        self,
        destination: Destination,
        queue: Queue,
        ledger: Ledger,
        *,
        shutdown_timeout: float = 2.0,
    ) -> None:
        self.destination: Destination = destination
        self.queue: Queue = queue
        self.ledger: Ledger = ledger
        self.shutdown_timeout: float = shutdown_timeout
        self.worker: Worker = Worker(
            "usercontext-reports", self._deliver_next, self._release, has_more=self._has_more
        )
        self.pid: int = os.getpid()
        self._rests_until = 0.0
        processes.watch(self)

    # What the client calls

    def has_room(self) -> bool:
        """Return whether an event would be taken now; asked before one is built."""
        return self.queue.has_room()

    def submit(self, event: Event) -> bool:
        """Queue an event and return at once; False if there is no room, which is counted."""
        return self.submit_weighed(event, estimate_size(event, self.queue.max_bytes))

    def submit_weighed(self, event: Event | Unfinished, weight: int) -> bool:
        """Queue an event, or what the worker makes one of, of about so many bytes."""
        self._check_process()
        # Under the queue's lock, so that nobody finds the queue empty before all is counted.
        with self.queue.lock:
            self.ledger.capture()
            is_taken, dropped = self.queue.put(event, weight)
            for _ in range(dropped if is_taken else dropped + 1):
                self.ledger.end("queue_overflow")
        if is_taken and not self.worker.is_running:
            self._start()
        return is_taken

    def discard(self, reason: str) -> None:
        """Count an event that was dropped before it came here."""
        self._check_process()
        self.ledger.capture_ended(reason)

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all that was submitted before is dealt with; return whether it is."""
        self._check_process()
        if in_own_work():
            return False
        deadline = monotonic() + max(0.0, timeout)
        with self.destination.in_a_hurry(deadline):
            return self._flush(deadline)

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop for good; what is still queued is discarded, and counted."""
        deadline = monotonic() + max(0.0, timeout)
        with self.destination.in_a_hurry(deadline + _LAST_SECONDS):
            in_time = not in_own_work() and self._flush(deadline)
            for entry in self.queue.close():
                self._deliver(entry, self._deliver_last)
            self.destination.stop(deadline)
            if not in_own_work():
                self.worker.join(deadline - monotonic())
            if not self.worker.is_running:
                self._release()
        processes.forget(self)
        return in_time

    def stats(self) -> dict[str, Any]:
        """Return how many events were captured, sent, are queued, and were discarded for what."""
        return self.ledger.stats()

    # What the process tells

    def before_fork(self) -> None:
        """Put away what must not be open when this process forks."""
        self.destination.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""
        self.destination.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin empty and without threads, as the child of a fork."""
        self.pid = os.getpid()
        self._rests_until = 0.0
        self.queue.reset()
        self.ledger.reset()
        self.worker.reset()
        self.destination.after_fork_in_child()

    def at_exit(self) -> None:
        """Flush, as the process or a subinterpreter ends, which is fatal beside a thread of it."""
        if self.pid == os.getpid():
            deadline = monotonic() + self.shutdown_timeout
            if self.flush(self.shutdown_timeout):
                self.queue.release()
                self.worker.join(deadline - monotonic())

    def after_request(self) -> None:
        """Send on a worker of uwsgi that lets no thread run; not again at once if it is slow."""
        if self.stats()["queued"] and monotonic() >= self._rests_until:
            is_through = self.flush(_AFTER_REQUEST_SECONDS)
            self._rests_until = 0.0 if is_through else monotonic() + _REST_SECONDS

    def _check_process(self) -> None:
        # Forked by C code (uwsgi), without Python's hooks.
        if self.pid != os.getpid():
            self.after_fork_in_child()

    # Delivering

    def _start(self) -> bool:
        return not self.queue.is_closed and self.worker.start()

    def _flush(self, deadline: float) -> bool:
        last = self.queue.last()
        with self.queue.hurried():
            if not self.queue.is_through(last) and not self._start():
                # In an empty context, as the thread's: what is logged meanwhile is not a request's.
                Context().run(self._deliver_here, last, deadline)
            is_through = self.queue.wait_until_through(last, deadline - monotonic())
        return self.destination.settle(deadline) and is_through

    def _deliver_next(self) -> bool:
        """Deliver one event or several, waiting for one; return whether there may be more."""
        entry = self.queue.take(waits=threading.current_thread().daemon)
        if entry is None:
            return False
        self._deliver(entry, self.destination.deliver)
        return True

    def _has_more(self) -> bool:
        return len(self.queue) > 0 and not self.queue.is_closed

    def _deliver_here(self, last: int, deadline: float) -> None:
        """Deliver on the calling thread, as no other can be had."""
        with own_work:
            while monotonic() < deadline and not self.queue.is_through(last):
                entry = self.queue.take()
                if entry is None:
                    return
                self._deliver(entry, self.destination.deliver)

    def _deliver_last(self, event: Event, _more: _More) -> list[str | None]:
        return [self.destination.deliver_last(event)]

    def _deliver(self, entry: Entry, deliver: Callable[[Event, _More], list[str | None]]) -> None:
        event = self._finished(entry)
        if event is None:
            return
        taken = [entry]

        def more() -> Event | None:
            while (following := self.queue.take()) is not None:
                event = self._finished(following)
                if event is not None:
                    taken.append(following)
                    return event
            return None

        reasons: list[str | None]
        try:
            reasons = deliver(event, more)
        except Exception:  # noqa: BLE001
            failure("delivery", "usercontext could not deliver a report and dropped it")
            reasons = ["internal_sdk_error"] * len(taken)
        self._end(taken, reasons)

    def _finished(self, entry: Entry) -> Event | None:
        """Return the event of an entry; None if it is dropped, which is counted."""
        if isinstance(entry.event, dict) and not isinstance(entry.event, Draft):
            return entry.event
        reason = "event_processor"
        try:
            event = entry.event.finished()
        except Exception:  # noqa: BLE001
            failure("event", "usercontext could not build a report and dropped it")
            event, reason = None, "internal_sdk_error"
        if event is None:
            self._end([entry], [reason])
        return event

    def _end(self, taken: list[Entry], reasons: Sequence[str | None]) -> None:
        with self.queue.lock:
            for entry, reason in zip(taken, reasons, strict=True):
                # Not done: this thread forked, and is in a child that counts from zero.
                if self.queue.done(entry) and reason != KEPT:
                    self.ledger.end(reason)

    def _release(self) -> None:
        try:
            self.destination.release()
        except Exception:  # noqa: BLE001
            failure("transport close", "usercontext could not close its transport")
