"""Sends by way of an outbox: each event is in a file before it is on its way.

Two threads: one writes what is captured, so that a slow server keeps nothing in memory alone,
the other sends what the file holds, its own and what processes that died have left.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from contextvars import Context
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import failure
from usercontext.sentry.delivery.http import HttpTransport
from usercontext.sentry.delivery.outbox import LEASE_SECONDS, Outbox, is_corrupt
from usercontext.sentry.delivery.queue import (
    KEPT,
    in_own_work,
    own_work,
    start_thread,
)
from usercontext.sentry.dsn import Dsn
from usercontext.sentry.event.payload import encode_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.types import Event

__all__ = ["DurableTransport", "open_outbox"]

_CLAIM_SECONDS = LEASE_SECONDS / 3
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = _CLAIM_SECONDS
# How much longer than it was given `close()` may take to put into the file what is still queued.
_LAST_SECONDS = 0.5
_FILE_ERRORS = (sqlite3.Error, OSError)


class DurableTransport(HttpTransport):
    """Keeps each event in an outbox until the server has decided about it.

    An event counts as queued as long as the outbox holds it for this process. What is taken
    over from a process that died counts as captured when its end is known. While the file
    cannot be written, events are sent without it.

    Args:
        dsn: the server and project.
        outbox: the file.
        **options: those of `HttpTransport`.
    """

    _due: float
    _retry_at: float
    _file_is_lost = False

    def __init__(self, dsn: Dsn, *, outbox: Outbox, **options: Any) -> None:
        self._outbox = outbox
        super().__init__(dsn, **options)

    def resume(self) -> None:
        """Begin to send what an earlier process left: it must not wait for our first event."""
        try:
            if self._outbox.is_waiting():
                self._ensure_sender()
        except _FILE_ERRORS:
            self._file_failed()

    def send(self, event: Event, payload: bytes) -> str | None:
        """Keep an event, for the other thread to send."""
        if not self._keep(event, payload):
            return self._post_with_retries(event["event_id"], payload)
        with self._news:
            self._due = min(self._due, self._retry_at)
            self._news.notify_all()
        self._ensure_sender()
        return KEPT

    def deliver_last(self, event: Event) -> str | None:
        """Keep an event that is still queued when we are closed, or count it as lost."""
        payload = None if self._file_is_lost else encode_event(event)
        if payload is None:
            return "network_error"
        # What is locked now would be waited for again with each event that is left.
        self._file_is_lost = not self._keep(event, payload)
        return "network_error" if self._file_is_lost else KEPT

    def flush(self, timeout: float = 2.0) -> bool:
        """Send what can be sent; return whether all is sent, counted or in the outbox."""
        if in_own_work():
            return False
        deadline = monotonic() + max(0.0, timeout)
        with self._outbox.in_a_hurry(deadline):
            return self._flush(deadline)

    def _flush(self, deadline: float) -> bool:
        is_safe = super().flush(deadline - monotonic())
        with self._news:
            self._asked += 1
            asked = self._asked
            self._news.notify_all()
        if not self._ensure_sender():
            Context().run(self._send_here, deadline)
            return is_safe
        with self._news:
            self._news.wait_for(lambda: self._answered >= asked, max(0.0, deadline - monotonic()))
        return is_safe

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop for good; what the outbox holds is left to the next process."""
        deadline = monotonic() + max(0.0, timeout)
        with self._outbox.in_a_hurry(deadline + _LAST_SECONDS):
            return self._close(deadline)

    def _close(self, deadline: float) -> bool:
        is_safe = super().close(deadline - monotonic())
        with self._news:
            self._news.notify_all()
            if self._sender is not None and not in_own_work():
                self._news.wait_for(lambda: self._sender is None, max(0.0, deadline - monotonic()))
            is_last = self._sender is None
        if is_last:
            self._leave()
        return is_safe

    def release(self) -> None:
        """Leave the connections to the thread that sends, while there is one."""
        if self._sender is None:
            self._leave()

    def abandon(self) -> None:
        """Leave file and connections to the parent."""
        super().abandon()
        self._outbox.abandon()

    def before_fork(self) -> None:
        """Close the file while this process forks, and wait until no connection is being made."""
        self._outbox.before_fork()
        super().before_fork()

    def after_fork_in_parent(self) -> None:
        """Let the threads use file and connections again."""
        super().after_fork_in_parent()
        self._outbox.after_fork_in_parent()

    def waiting(self) -> int:
        """Return how many reports are this process's to send."""
        return self._outbox.waiting()

    def send_all(self) -> Iterator[int]:
        """Send what the outbox holds, here and now; yield how many are left, after each.

        Ends when there are none, or when the server or the file cannot be reached.
        """
        while True:
            with own_work:
                if not self._send_safely():
                    return
            yield self._outbox.waiting()

    def _begin(self) -> None:
        super()._begin()
        self._news = threading.Condition(threading.RLock())
        self._sender: threading.Thread | None = None
        #: The ids that this process keeps; False while one is being written.
        self._kept: dict[str, bool] = {}
        self._removing: str | None = None
        self._asked = self._answered = 0
        self._failures = 0
        # Of `monotonic()`: when to look into the file, when to try the server and the claim again.
        self._due = self._retry_at = self._claim_at = 0.0

    # Writing

    def _keep(self, event: Event, payload: bytes) -> bool:
        """Write an event to the outbox; return whether it is there."""
        event_id = event["event_id"]
        with self._wake:
            if event_id in self._kept:
                self._count(None)  # It is on its way already, under this id.
                return True
            self._kept[event_id] = False
        try:
            is_new, gone = self._write(event, payload)
        except _FILE_ERRORS:
            self._file_failed()
            with self._wake:
                self._kept.pop(event_id, None)
            return False
        with self._wake:
            if not is_new and self._kept.pop(event_id, None) is not None:
                self._count(None)  # Another process sends it.
            elif event_id in self._kept:
                self._kept[event_id] = True
        for lost in gone:
            self._finish_kept(lost, "queue_overflow")
        return True

    def _write(self, event: Event, payload: bytes) -> tuple[bool, list[str]]:
        try:
            return self._outbox.keep(event, payload)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
        self._outbox.set_aside()
        return self._outbox.keep(event, payload)

    def _file_failed(self) -> None:
        path = self._outbox.path
        failure(
            f"outbox {path}",
            "usercontext cannot use the outbox %s, and sends without it until it can",
            path,
        )
        try:
            self._outbox.release()
        except _FILE_ERRORS:
            failure(f"closing outbox {path}", "usercontext cannot close the outbox %s", path)

    # Sending

    def _ensure_sender(self) -> bool:
        with self._news:
            if self._sender is None and not self._closed:
                self._sender = start_thread(self._run_sender, "usercontext-outbox")
            return self._sender is not None

    def _run_sender(self) -> None:
        news = self._news
        try:
            with own_work:
                while self._send_next():
                    pass
        finally:
            if news is self._news:
                self._leave()  # Without the lock: who closes us must not wait for the file.
            with news:
                if news is self._news:
                    self._sender = None
                    self._answered = self._asked
                    news.notify_all()

    def _send_next(self) -> bool:
        """Send one report, waiting for it; return whether to go on."""
        with self._news:
            while not self._has_to_send():
                self._news.wait(min(max(0.001, self._due - monotonic()), 3600.0))
            if self._closed:
                return False
            asked = self._asked
        if not self._send_safely():
            with self._news:
                self._answered = max(self._answered, asked)
                self._news.notify_all()
        return True

    def _has_to_send(self) -> bool:
        return self._closed or self._asked > self._answered or monotonic() >= self._due

    def _send_safely(self) -> bool:
        try:
            return self._send_one()
        except _FILE_ERRORS:
            self._file_failed()
        except Exception:  # noqa: BLE001
            failure("outbox", "usercontext could not send what is in its outbox")
        self._pause_sending()
        return False

    def _send_one(self) -> bool:
        """Send the oldest report; return whether there may be another one to send now."""
        if self._removing is not None:
            self._remove(self._removing)
        with self._news:
            self._due = inf
        if monotonic() >= self._claim_at:
            for lost in self._outbox.claim():
                self._finish_kept(lost, "queue_overflow")
            self._forget_vanished()
            self._claim_at = monotonic() + _CLAIM_SECONDS
        found = self._outbox.next()
        if found is None:
            self._forget_vanished()
            self._sleep_until(monotonic() + _CLAIM_SECONDS)
            return False
        return self._send_found(*found)

    def _send_found(self, event_id: str, payload: bytes) -> bool:
        reason: str | None = "ratelimit_backoff"
        if not self._limits.is_limited(monotonic()):
            try:
                reason = self._post(event_id, payload)
            except self._httpx.TransportError:
                self._network_failed()
                self._pause_sending()
                return False
            self._network_is_down = False
            self._failures, self._retry_at = 0, 0.0
        self._finish_kept(event_id, reason)
        self._removing = event_id
        self._remove(event_id)
        self._sleep_until(0.0)
        return True

    def _remove(self, event_id: str) -> None:
        """Remove what is dealt with; nothing else is sent before that, or it is sent again."""
        self._outbox.remove(event_id)
        self._removing = None

    def _pause_sending(self) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311
        self._sleep_until(self._retry_at)

    def _sleep_until(self, due: float) -> None:
        with self._news:
            self._due = min(self._due, due)

    def _send_here(self, deadline: float) -> None:
        """Send on the calling thread, as no other can be had."""
        with own_work:
            while monotonic() < deadline and self._send_safely():
                pass

    def _network_failed(self) -> str:
        self._network_is_down = True
        failure(
            f"network to {self._dsn.host}",
            "usercontext cannot reach %s and keeps reports in %s until it can",
            self._dsn.host,
            self._outbox.path,
        )
        return "network_error"

    def _leave(self) -> None:
        """Close file and connections, once nobody needs them any more."""
        if not self._closed:
            return
        try:
            super().release()
            self._outbox.leave()
            self._outbox.release()
        except _FILE_ERRORS:
            self._file_failed()

    # Counting

    def _finish_kept(self, event_id: str, reason: str | None) -> None:
        """Count the end of a report that the outbox held."""
        with self._wake:
            if self._kept.pop(event_id, None) is None:
                # Another process captured it.
                self._captured += 1
                self._submitted += 1
            self._count(reason)

    def _forget_vanished(self) -> None:
        """Count what was removed by others: cleared, or too old, or the file is another one."""
        with self._wake:
            kept = [event_id for event_id, is_written in self._kept.items() if is_written]
        vanished = self._outbox.vanished(kept)
        with self._wake:
            for event_id in vanished:
                if self._kept.pop(event_id, None) is not None:
                    self._count("queue_overflow")


def open_outbox(path: str, target: str) -> DurableTransport:
    """Return a transport that sends what an outbox holds for a server, when it is told to.

    How long a report may wait is known to the app alone, so none is deleted for its age.

    Args:
        path: the file.
        target: the server's DSN as it stands in the file.
    """
    return DurableTransport(
        Dsn(target), outbox=Outbox(path, target, max_age=inf), max_queue=1, max_queue_bytes=1
    )
