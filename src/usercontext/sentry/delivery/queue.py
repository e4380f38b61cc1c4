"""A bounded queue of events, which knows when all up to a certain one are dealt with."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.sentry.event.draft import Unfinished
    from usercontext.types import Event

__all__ = ["Entry", "Queue"]


class Entry(NamedTuple):
    """An event that waits."""

    event: Event | Unfinished
    weight: int
    number: int


class Queue:
    """Holds events until they are taken, bounded in number and memory.

    Args:
        max_events: how many may wait.
        max_bytes: about how much memory they may take; a single one is always let in.
        drop_oldest: whether the oldest waiting event makes room for a new one.

    Attributes:
        lock: guards everything here; reentrant, as a signal handler or finalizer may capture on
            the thread that holds it.
        changed: the condition of that lock.
        max_bytes: about how much memory the events may take.
        is_closed: whether nothing more is let in.
    """

    def __init__(self, max_events: int, max_bytes: int, *, drop_oldest: bool = False) -> None:
        self._max_events = max_events
        self.max_bytes: int = max_bytes
        self._drop_oldest = drop_oldest
        self._last = 0
        self.is_closed: bool = False
        self.reset()

    def __len__(self) -> int:
        return len(self._waiting)

    def reset(self) -> None:
        """Begin empty, as the child of a fork does."""
        self.lock: threading.RLock = threading.RLock()
        self.changed: threading.Condition = threading.Condition(self.lock)
        self._waiting: deque[Entry] = deque()
        self._taken: set[int] = set()
        self._bytes = 0
        self._hurried = 0
        #: Whether nobody waits for an event any more.
        self.released: bool = False

    def has_room(self) -> bool:
        """Return whether an event would be let in now; asked before one is built."""
        if self.is_closed:
            return False
        if self._drop_oldest:
            return True
        return len(self._waiting) < self._max_events and self._bytes < self.max_bytes

    def put(self, event: Event | Unfinished, weight: int) -> tuple[bool, int]:
        """Let an event of a weight in; return whether it is, and how many others were dropped."""
        with self.lock:
            dropped = self._make_room(weight) if self._drop_oldest else 0
            if not self._fits(weight):
                return False, dropped
            self._last += 1
            self._waiting.append(Entry(event, weight, self._last))
            self._bytes += weight
            self.changed.notify_all()
        return True, dropped

    def take(self, *, waits: bool = False) -> Entry | None:
        """Return the oldest event, to be told `done`; None if there is none.

        Args:
            waits: whether to wait for one, as long as the queue is not closed, and not `released`.
        """
        with self.lock:
            if waits:
                self.changed.wait_for(lambda: self._waiting or self.is_closed or self.released)
            if not self._waiting:
                return None
            entry = self._pop()
            self._taken.add(entry.number)
            return entry

    def release(self) -> None:
        """Let who waits for an event go without one, as the interpreter ends."""
        with self.lock:
            self.released = True
            self.changed.notify_all()

    def done(self, entry: Entry) -> bool:
        """Take note that an event is dealt with; False if it is another process's."""
        with self.lock:
            if entry.number not in self._taken:
                return False
            self._taken.discard(entry.number)
            self.changed.notify_all()
            return True

    def last(self) -> int:
        """Return the number of the event that came last."""
        with self.lock:
            return self._last

    def is_through(self, last: int) -> bool:
        """Return whether all events up to this number are dealt with."""
        with self.lock:
            if self._waiting and self._waiting[0].number <= last:
                return False
            return not any(number <= last for number in self._taken)

    def wait_until_through(self, last: int, timeout: float) -> bool:
        """Wait until they are; return whether it was in time."""
        with self.lock:
            return self.changed.wait_for(lambda: self.is_through(last), max(0.0, timeout))

    def close(self) -> list[Entry]:
        """Let nothing in any more; return what is left, each to be told `done`."""
        with self.lock:
            self.is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self._taken.update(entry.number for entry in left)
            self.changed.notify_all()
        return left

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Cut all pauses short in a block, as somebody waits."""
        with self.lock:
            self._hurried += 1
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.lock:
                self._hurried -= 1

    def pause(self, seconds: float) -> bool:
        """Wait on the thread that delivers; return False if somebody waits for it meanwhile."""
        with self.lock:
            return not self.changed.wait_for(lambda: self.is_closed or self._hurried > 0, seconds)

    def _fits(self, weight: int) -> bool:
        if self.is_closed or len(self._waiting) >= self._max_events:
            return False
        return not self._waiting or self._bytes + weight <= self.max_bytes

    def _make_room(self, weight: int) -> int:
        dropped = 0
        while self._waiting and not self._fits(weight) and not self.is_closed:
            self._pop()
            dropped += 1
            self.changed.notify_all()  # Whoever waits for that one waits no more.
        return dropped

    def _pop(self) -> Entry:
        entry = self._waiting.popleft()
        self._bytes -= entry.weight
        return entry
