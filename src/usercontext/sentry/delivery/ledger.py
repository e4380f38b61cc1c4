"""Counts what becomes of every event: `captured = sent + queued + discarded`, at any time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UNREPORTED_BACKOFF", "Ledger"]

#: Counted as `ratelimit_backoff`, but not reported: a server counts what it answered 429 itself.
UNREPORTED_BACKOFF = "429"
_BACKOFF = "ratelimit_backoff"
# A transport may be told reasons of the app's own; each must fit into a client report.
_MAX_REASON = 100


class Ledger:
    """Counts the events of one process, each once when it is captured and once at its end.

    What is between the two is queued, be it in memory or in a file.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin to count, as the child of a fork does."""
        # Reentrant: a signal handler or finalizer may capture on the thread that holds it.
        self._lock = threading.RLock()
        self._captured = self._sent = self._dropped = 0
        self._discarded: dict[str, int] = {}
        #: What no server was told of yet.
        self.unreported: dict[str, int] = {}

    def capture(self) -> None:
        """Count an event that is queued from now on."""
        with self._lock:
            self._captured += 1

    def end(self, reason: str | None) -> None:
        """Count the end of an event that was queued: sent, or discarded for a reason."""
        with self._lock:
            self._end(reason)

    def capture_ended(self, reason: str | None) -> None:
        """Count an event that was never queued here: it is captured and at its end at once."""
        with self._lock:
            self._captured += 1
            self._end(reason)

    def stats(self) -> dict[str, Any]:
        """Return how many events were captured, sent, are queued, and were discarded for what."""
        with self._lock:
            return {
                "captured": self._captured,
                "sent": self._sent,
                "queued": self._captured - self._sent - self._dropped,
                "discarded": dict(self._discarded),
            }

    def captured(self) -> int:
        """Return how many events were captured."""
        return self._captured

    def take_unreported(self) -> dict[str, int]:
        """Return what was discarded since last asked, by reason; read and reset in one step."""
        with self._lock:
            unreported, self.unreported = self.unreported, {}
        return unreported

    def give_back(self, unreported: Mapping[str, int]) -> None:
        """Take back what no report of it has arrived."""
        with self._lock:
            for reason, quantity in unreported.items():
                self.unreported[reason] = self.unreported.get(reason, 0) + quantity

    def _end(self, reason: str | None) -> None:
        if reason is None:
            self._sent += 1
            return
        self._dropped += 1
        if reason == UNREPORTED_BACKOFF:
            self._discarded[_BACKOFF] = self._discarded.get(_BACKOFF, 0) + 1
            return
        reason = reason[:_MAX_REASON]
        self._discarded[reason] = self._discarded.get(reason, 0) + 1
        self.unreported[reason] = self.unreported.get(reason, 0) + 1
