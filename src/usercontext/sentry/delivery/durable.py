"""Sends by way of an outbox: each event is in a file before it is on its way.

Two threads: one writes what is captured, so that a slow server keeps nothing in memory alone,
the other (`forwarder`) sends what the file holds.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from usercontext.sentry.delivery.destination import KEPT, Destination, encoded
from usercontext.sentry.delivery.outbox_file import FILE_ERRORS, is_corrupt
from usercontext.sentry.event.payload import encode_event

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from usercontext.sentry.delivery.forwarder import Forwarder
    from usercontext.sentry.delivery.http import HttpDestination
    from usercontext.sentry.delivery.kept import Kept
    from usercontext.sentry.delivery.outbox import Outbox
    from usercontext.types import Event

__all__ = ["OutboxDestination"]


class OutboxDestination(Destination):
    """Keeps each event in an outbox until the server has decided about it.

    An event counts as queued as long as the outbox holds it for this process. While the file
    cannot be written, events are sent without it.

    Args:
        outbox: the file.
        forwarder: sends what it holds.
        kept: counts what it holds.
        direct: sends without it.
    """

    def __init__(
        self, outbox: Outbox, forwarder: Forwarder, kept: Kept, direct: HttpDestination
    ) -> None:
        self.outbox: Outbox = outbox
        self.forwarder: Forwarder = forwarder
        self.kept: Kept = kept
        self.direct: HttpDestination = direct
        self._file_is_lost = False

    def resume(self) -> None:
        """Begin to send what an earlier process left: it must not wait for our first event."""
        try:
            if self.outbox.is_waiting():
                self.forwarder.start()
        except FILE_ERRORS:
            self.outbox.file.failed()

    def deliver(self, event: Event) -> str | None:
        """Keep an event, for the forwarder to send."""
        if self.direct.sender.is_limited():
            return "ratelimit_backoff"
        payload = encoded(event)
        if payload is None:
            return "send_error"
        if not self._keep(event, payload):
            return self.direct.post(event["event_id"], payload)
        self.forwarder.wake()
        return KEPT

    def deliver_last(self, event: Event) -> str | None:
        """Keep an event that is still queued at the end, or count it as lost."""
        payload = None if self._file_is_lost else encode_event(event)
        if payload is None:
            return "network_error"
        # What is locked now would be waited for again with each event that is left.
        self._file_is_lost = not self._keep(event, payload)
        return "network_error" if self._file_is_lost else KEPT

    def settle(self, deadline: float) -> bool:
        """Have what can be sent sent; what is in the outbox is safe."""
        self.forwarder.flush(deadline)
        return True

    def in_a_hurry(self, deadline: float) -> AbstractContextManager[None]:
        """Let this thread wait for the file until then alone."""
        return self.outbox.file.database.in_a_hurry(deadline)

    def stop(self, deadline: float) -> None:
        """Stop sending; what the outbox holds is left to the next process."""
        self.forwarder.stop(deadline)

    def release(self) -> None:
        """Close file and connection, once the forwarder does not need them any more."""
        self.forwarder.release()

    def before_fork(self) -> None:
        """Close the file while this process forks, and wait until no connection is being made."""
        self.outbox.file.database.before_fork()
        self.direct.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let the threads use file and connection again."""
        self.direct.after_fork_in_parent()
        self.outbox.file.database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave file, connection and what is kept to the parent."""
        self.direct.after_fork_in_child()
        self.outbox.after_fork_in_child()
        self.kept.reset()
        self.forwarder.after_fork_in_child()

    def _keep(self, event: Event, payload: bytes) -> bool:
        """Write an event to the outbox; return whether it is there."""
        event_id = event["event_id"]
        if not self.kept.begin(event_id):
            return True
        try:
            is_new, gone = self._write(event, payload)
        except FILE_ERRORS:
            self.outbox.file.failed()
            self.kept.withdraw(event_id)
            return False
        self.kept.written(event_id, is_new=is_new)
        for lost in gone:
            self.kept.end(lost, "queue_overflow")
        return True

    def _write(self, event: Event, payload: bytes) -> tuple[bool, list[str]]:
        try:
            return self.outbox.keep(event, payload)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
        self.outbox.file.set_aside()
        return self.outbox.keep(event, payload)
