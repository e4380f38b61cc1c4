"""Sends what an outbox holds, from a thread: this process's reports, and adopted ones."""

from __future__ import annotations

import random
import threading
from contextvars import Context
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from usercontext.diagnostics import failure
from usercontext.sentry.delivery.network import NetworkError
from usercontext.sentry.delivery.outbox import LEASE_SECONDS
from usercontext.sentry.delivery.own_work import in_own_work, own_work
from usercontext.sentry.delivery.pace import Pace
from usercontext.sentry.delivery.report_file import BATCH
from usercontext.sentry.delivery.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.sentry.delivery.holding import Holding
    from usercontext.sentry.delivery.http import Sender
    from usercontext.sentry.delivery.kept import Kept

__all__ = ["Forwarder"]

_RENEW_SECONDS = LEASE_SECONDS / 3
_LONGEST_WAIT = 3600.0
# After how long what is dealt with is removed at the latest.
_LONGEST_BATCH = 0.2


class Forwarder:
    """Sends one report after the other, oldest first; pauses while the server is away.

    Reports are read and removed some at a time; each answer is judged before the next report
    goes. After a crash those may be sent again whose end was known and that were not removed yet.

    Args:
        outbox: what holds them.
        sender: what posts them.
        kept: what counts them.
        look_seconds: how often to look for reports that nobody here has written.
    """

    def __init__(
        self,
        outbox: Holding,
        sender: Sender,
        kept: Kept,
        *,
        look_seconds: float = _RENEW_SECONDS,
    ) -> None:
        self._look_seconds = look_seconds
        self._outbox = outbox
        self._sender = sender
        self._kept = kept
        self._worker = Worker("usercontext-outbox", self._send_next, self._end)
        self._is_stopped = False
        self._begin()

    @property
    def is_running(self) -> bool:
        """Whether there is a thread that sends."""
        return self._worker.is_running

    def wake(self, written: int) -> None:
        """Look into the outbox, as so much more is there, unless the server is away."""
        with self._news:
            self._written += written
            self._look_at(self._retry_at)
            self._news.notify_all()
        self.start()

    def start(self) -> bool:
        """Start the thread if there is none; return whether one runs."""
        return not self._is_stopped and self._worker.start()

    def flush(self, deadline: float) -> None:
        """Send what can be sent now, or wait until then, of `monotonic()`, for the thread."""
        with self._news:
            self._asked += 1
            asked = self._asked
            self._news.notify_all()
        if not self.start():
            Context().run(self._send_here, deadline)
            return
        with self._news:
            self._news.wait_for(lambda: self._answered >= asked, max(0.0, deadline - monotonic()))

    def stop(self, deadline: float) -> None:
        """Send no more, and wait until then for the thread to end."""
        self._is_stopped = True
        with self._news:
            self._news.notify_all()
        if not in_own_work():
            self._worker.wait(deadline - monotonic())

    def release(self) -> None:
        """Close file and connection, unless the thread still needs them, which does so then."""
        if not self._worker.is_running:
            self._leave()

    def after_fork_in_child(self) -> None:
        """Begin without a thread, as the child of a fork."""
        self._worker.reset()
        self._begin()

    def send_all(self) -> Iterator[int]:
        """Send what the outbox holds, here and now; yield how many are left, after each.

        Ends when there are none, or when the server or the file cannot be reached.
        """
        left = self._outbox.waiting()
        while True:
            with own_work:
                if not self._send_safely(limit=1):
                    return
            # To count each time would read all of a large file for every report.
            left = left - 1 if left > BATCH else self._outbox.waiting()
            yield left

    def _begin(self) -> None:
        """Set what belongs to one process."""
        self._news = threading.Condition(threading.RLock())
        #: What is dealt with, and still in the file.
        self._done: list[str] = []
        self._may_adopt_more = False
        self._asked = self._answered = 0
        self._written = 0
        self._pace = Pace(lambda: self._written)
        # Of `monotonic()`: when to look into the file, when to try the server and the lease again.
        self._due: float = 0.0
        self._retry_at: float = 0.0
        self._renew_at: float = 0.0

    def _send_next(self) -> bool:
        """Send some reports, waiting for them; return whether to go on."""
        with self._news:
            while not self._has_to_send():
                self._news.wait(min(max(0.001, self._due - monotonic()), _LONGEST_WAIT))
            if self._is_stopped:
                return False
            asked = self._asked
        if not self._send_safely():
            with self._news:
                self._answered = max(self._answered, asked)
                self._news.notify_all()
        return True

    def _has_to_send(self) -> bool:
        return self._is_stopped or self._asked > self._answered or monotonic() >= self._due

    def _end(self) -> None:
        """Leave, without the lock: who stops us must not wait for the file."""
        self._leave()
        with self._news:
            self._answered = self._asked
            self._news.notify_all()

    def _leave(self) -> None:
        if not self._is_stopped:
            return
        try:
            if self._done:
                self._remove_done()
            self._outbox.release()
            self._outbox.close()
        except self._outbox.errors:
            self._outbox.failed()
        # Last: while a locked file was waited for, another thread may have sent without it.
        self._sender.connection.close()

    def _send_here(self, deadline: float) -> None:
        """Send on the calling thread, as no other can be had."""
        with own_work:
            while monotonic() < deadline and self._send_safely(deadline):
                pass

    def _send_safely(self, deadline: float = inf, *, limit: int = BATCH) -> bool:
        try:
            return self._send_some(deadline, limit)
        except self._outbox.errors:
            self._outbox.failed()
        except Exception:  # noqa: BLE001
            failure("outbox", "usercontext could not send what is in its outbox")
        self._pause()
        return False

    def _send_some(self, deadline: float, limit: int) -> bool:
        """Send the oldest reports; return whether there may be others to send now."""
        if self._done:
            # Nothing else is sent before that, or what cannot be removed is sent again.
            self._remove_done()
        self._kept.look()
        with self._news:
            self._due = inf
        if self._outbox.waits_for_limits and self._is_paused():
            return False
        if monotonic() >= self._renew_at:
            self._renew()
        found = self._outbox.next(1 if self._is_paced() else limit)
        if not found and self._may_adopt_more:
            self._adopt()
            found = self._outbox.next(limit)
        if not found:
            self._pace.caught_up()
            self._retry_at = 0.0
            self._forget_vanished()
            self._look_at(monotonic() + self._look_seconds)
            return False
        is_up = self._send_each(found, min(deadline, self._renew_at, monotonic() + _LONGEST_BATCH))
        if self._done:
            self._remove_done()
        if not is_up:
            self._outbox.give_back()
            return False
        self._look_at(self._retry_at)
        return True

    def _is_paced(self) -> bool:
        """Return whether to send one by one, as the server was away, and nobody waits for us."""
        return self._pace.is_catching_up and self._asked <= self._answered

    def _send_each(self, found: list[tuple[str, bytes]], until: float) -> bool:
        """Send reports, the first one at least; return whether the server takes more."""
        for event_id, payload in found:
            # One that has ended before its turn came has made room for another.
            if not self._kept.has_ended(event_id) and not self._send(event_id, payload):
                return False
            if self._is_stopped or monotonic() >= until:
                break
        return True

    def _is_paused(self) -> bool:
        """Return whether the server wants to hear nothing now, as any process was told."""
        now = monotonic()
        wait = max(self._outbox.paused(), self._sender.limits.seconds_left(now))
        if wait > 0:
            self._pace.failed()  # What waits meanwhile is not sent all at once, either.
            # Not all at the same moment, where many wait.
            self._retry_at = now + wait * random.uniform(1.0, 1.1)  # noqa: S311
            self._look_at(self._retry_at)
        return wait > 0

    def _send(self, event_id: str, payload: bytes) -> bool:
        """Send one report; return whether the server was there."""
        reason: str | None = "ratelimit_backoff"
        if not self._sender.is_limited():
            begin = monotonic()
            try:
                reason = self._sender.post(event_id, payload)
            except NetworkError as error:
                self._sender.failed(error, "keeps reports in %s", self._outbox.place)
                self._pause()
                return False
            now = monotonic()
            wait = self._pace.succeeded(now - begin)
            self._retry_at = now + wait if wait else 0.0
        self._kept.end(event_id, reason)
        self._done.append(event_id)
        if self._outbox.waits_for_limits and self._sender.is_limited():
            self._outbox.pause(self._sender.limits.seconds_left(monotonic()))
            return not self._is_paused()
        return True

    def _remove_done(self) -> None:
        self._outbox.remove(self._done)
        self._done = []

    def _renew(self) -> None:
        for lost in self._outbox.renew():
            self._kept.end(lost, "queue_overflow")
        self._adopt()
        self._forget_vanished()
        self._renew_at = monotonic() + _RENEW_SECONDS

    def _adopt(self) -> None:
        # What is more than one step waits until that is sent.
        self._may_adopt_more = self._outbox.adopt() > 0

    def _forget_vanished(self) -> None:
        self._kept.vanish(self._outbox.vanished(self._kept.ids()), self._outbox.vanished_as)

    def _pause(self) -> None:
        self._retry_at = monotonic() + self._pace.failed()
        self._look_at(self._retry_at)

    def _look_at(self, due: float) -> None:
        with self._news:
            self._due = min(self._due, due)
