"""Which events this process has in an outbox: each is counted once, when its end is known."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usercontext.sentry.delivery.ledger import Ledger

__all__ = ["Kept"]


class Kept:
    """The ids of the events that wait in the outbox, for two threads.

    What was adopted from a process that died counts as captured when its end is known.

    Args:
        ledger: what counts the events.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reset()

    def reset(self) -> None:
        """Begin empty, as the child of a fork does."""
        self._lock = threading.RLock()
        # False while one is being written.
        self._ids: dict[str, bool] = {}
        # Counted, and perhaps still in the file, or in the hands of who sends it. Older ones
        # apart: they are forgotten at the next but one look into the file.
        self._ended: set[str] = set()
        self._ended_before: set[str] = set()

    def has_ended(self, event_id: str) -> bool:
        """Return whether an event was counted a short while ago."""
        return event_id in self._ended or event_id in self._ended_before

    def look(self) -> None:
        """Take note that the file is looked into again: what has ended long ago is not there."""
        with self._lock:
            self._ended_before, self._ended = self._ended, set()

    def begin(self, event_id: str) -> bool:
        """Take note of an event about to be written; False if it is on its way already."""
        with self._lock:
            if event_id in self._ids:
                self._ledger.end(None)
                return False
            self._ids[event_id] = False
            self._ended.discard(event_id)
            self._ended_before.discard(event_id)
        return True

    def written(self, event_id: str, *, is_new: bool) -> None:
        """Take note that an event is written, or was there, for another process to send."""
        with self._lock:
            if not is_new and self._ids.pop(event_id, None) is not None:
                self._ledger.end(None)
            elif event_id in self._ids:
                self._ids[event_id] = True

    def withdraw(self, event_id: str) -> None:
        """Take note that an event could not be written."""
        with self._lock:
            self._ids.pop(event_id, None)

    def end(self, event_id: str, reason: str | None) -> None:
        """Count the end of an event that the outbox held, this process's or an adopted one.

        Once: one that made room may have been on its way to the server.
        """
        with self._lock:
            if self.has_ended(event_id):
                return
            self._ended.add(event_id)
            if self._ids.pop(event_id, None) is None:
                self._ledger.capture_ended(reason)
            else:
                self._ledger.end(reason)

    def vanish(self, event_ids: Iterable[str], reason: str | None = "queue_overflow") -> None:
        """Count what was removed by others: cleared, or too old, or the file is another one."""
        with self._lock:
            for event_id in event_ids:
                if self._ids.pop(event_id, None) is not None:
                    self._ledger.end(reason)

    def ids(self) -> list[str]:
        """Return the ids of what is written, oldest first."""
        with self._lock:
            return [event_id for event_id, is_written in self._ids.items() if is_written]
