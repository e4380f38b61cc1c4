"""Sends by way of an outbox: each event is in a file before it is on its way.

Two threads: one writes what is captured, so that a slow server keeps nothing in memory alone,
the other (`forwarder`) sends what the file holds.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from usercontext.sentry.delivery.backoff import Backoff
from usercontext.sentry.delivery.destination import KEPT, Destination, encoded
from usercontext.sentry.delivery.report_file import BATCH, BATCH_BYTES, BATCH_SECONDS
from usercontext.sentry.event.payload import encode_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from usercontext.sentry.delivery.forwarder import Forwarder
    from usercontext.sentry.delivery.holding import Holding
    from usercontext.sentry.delivery.http import HttpDestination
    from usercontext.sentry.delivery.kept import Kept
    from usercontext.types import Event

__all__ = ["OutboxDestination"]

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 20.0


class _Taken:
    """An event out of the queue, and what becomes of it."""

    __slots__ = ("event", "outcome", "payload")

    def __init__(self, event: Event, payload: bytes, outcome: str | None) -> None:
        self.event = event
        self.payload = payload
        #: None as long as it is to be written.
        self.outcome = outcome


class OutboxDestination(Destination):
    """Keeps each event in an outbox until the server has decided about it.

    An event counts as queued as long as the outbox holds it for this process. While the file
    cannot be written, events are sent without it.

    Args:
        outbox: the file, or what else holds them.
        forwarder: sends what it holds.
        kept: counts what it holds.
        direct: sends without it.
    """

    def __init__(
        self, outbox: Holding, forwarder: Forwarder, kept: Kept, direct: HttpDestination
    ) -> None:
        self.outbox: Holding = outbox
        self.forwarder: Forwarder = forwarder
        self.kept: Kept = kept
        self.direct: HttpDestination = direct
        self._file_is_lost = False

    def resume(self) -> None:
        """Begin to send what an earlier process left: it must not wait for our first event."""
        try:
            if self.outbox.is_waiting():
                self.forwarder.start()
        except self.outbox.errors:
            self.outbox.failed()

    def deliver(self, event: Event, more: Callable[[], Event | None]) -> list[str | None]:
        """Keep what waits, in one transaction as far as it is not too much, to be forwarded."""
        taken = [self._taken(event)]
        if taken[0].outcome is None and self._keep(taken, more):
            self.forwarder.wake(sum(each.outcome == KEPT for each in taken))
        return [
            self._without_outbox(each) if each.outcome is None else each.outcome for each in taken
        ]

    def _without_outbox(self, taken: _Taken) -> str | None:
        """Send an event directly, as the outbox is away."""
        if not self.outbox.waits_for_limits:
            return self._post(taken)
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            if self.direct.sender.is_limited():
                return "ratelimit_backoff"
            reason = self._post(taken)
            # An engine is back sooner or later: until then the queue is what decides.
            if reason != "network_error" or not self.direct.pause(backoff.next()):
                return reason
            if self.kept.begin(taken.event["event_id"]) and self._keep([taken], lambda: None):
                self.forwarder.wake(1)
                return KEPT

    def _post(self, taken: _Taken) -> str | None:
        return self.direct.post(taken.event["event_id"], taken.payload)

    def deliver_last(self, event: Event) -> str | None:
        """Keep an event that is still queued at the end, or count it as lost."""
        payload = None if self._file_is_lost else encode_event(event)
        if payload is None:
            return "network_error"
        if not self.kept.begin(event["event_id"]):
            return KEPT
        # What is locked now would be waited for again with each event that is left.
        self._file_is_lost = not self._keep([_Taken(event, payload, None)], lambda: None)
        return "network_error" if self._file_is_lost else KEPT

    def settle(self, deadline: float) -> bool:
        """Have what can be sent sent; what is in the outbox is safe."""
        self.forwarder.flush(deadline)
        return True

    def in_a_hurry(self, deadline: float) -> AbstractContextManager[None]:
        """Let this thread wait for the file until then alone."""
        return self.outbox.in_a_hurry(deadline)

    def stop(self, deadline: float) -> None:
        """Stop sending; what the outbox holds is left to the next process."""
        self.forwarder.stop(deadline)

    def release(self) -> None:
        """Close file and connection, once the forwarder does not need them any more."""
        self.forwarder.release()

    def before_fork(self) -> None:
        """Close the file while this process forks, and wait until no connection is being made."""
        self.outbox.before_fork()
        self.direct.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let the threads use file and connection again."""
        self.direct.after_fork_in_parent()
        self.outbox.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave file, connection and what is kept to the parent."""
        self.direct.after_fork_in_child()
        self.outbox.after_fork_in_child()
        self.kept.reset()
        self.forwarder.after_fork_in_child()

    def _taken(self, event: Event) -> _Taken:
        """Return an event with its JSON, or with what has become of it already."""
        if self.direct.sender.is_limited() and not self.outbox.waits_for_limits:
            return _Taken(event, b"", "ratelimit_backoff")
        payload = encoded(event)
        if payload is None:
            return _Taken(event, b"", "send_error")
        return _Taken(event, payload, None if self.kept.begin(event["event_id"]) else KEPT)

    def _keep(self, taken: list[_Taken], more: Callable[[], Event | None]) -> bool:
        """Write what is taken, and more, to the outbox; return whether that could be done."""
        try:
            are_new, gone = self._write(taken, more)
        except self.outbox.errors:
            self.outbox.failed()
            for each in taken:
                if each.outcome is None:
                    self.kept.withdraw(each.event["event_id"])
            return False
        written = [each for each in taken if each.outcome is None]
        for each, is_new in zip(written, are_new, strict=True):
            self.kept.written(each.event["event_id"], is_new=is_new)
            each.outcome = KEPT
        for lost in gone:
            self.kept.end(lost, "queue_overflow")
        return True

    def _write(
        self, taken: list[_Taken], more: Callable[[], Event | None]
    ) -> tuple[list[bool], list[str]]:
        try:
            return self.outbox.keep(self._rows(taken, more))
        except self.outbox.errors as error:
            if not self.outbox.mend(error):
                raise
        return self.outbox.keep(self._rows(taken, more))

    def _rows(
        self, taken: list[_Taken], more: Callable[[], Event | None]
    ) -> Iterator[tuple[Event, bytes]]:
        """Yield what is to be written; what is taken meanwhile is added to the list.

        Nothing more is taken before the file is ours to write: as long as it is not, the queue
        decides what is dropped.
        """
        size, until = 0, inf
        for each in taken:  # What is found is added to its end.
            if each.outcome is None:
                size += len(each.payload)
                yield each.event, each.payload
                until = min(until, monotonic() + BATCH_SECONDS)  # The file is ours since then.
            is_full = len(taken) >= BATCH or size > BATCH_BYTES or monotonic() > until
            if each is taken[-1] and not is_full:
                event = more()
                taken += [] if event is None else [self._taken(event)]
