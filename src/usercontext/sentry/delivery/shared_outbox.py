"""An outbox that many machines share: one process's hold of an engine.

What is written belongs to nobody until a forwarder claims it, in whichever process: its lease is
renewed as long as that process sends, and what a dead one has claimed, others adopt.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from usercontext.diagnostics import error_once
from usercontext.event_loop import start_thread
from usercontext.sentry.delivery.backoff import Backoff
from usercontext.sentry.delivery.engine import (
    LEASE_SECONDS,
    EngineBounds,
    EngineError,
    Row,
    engine_address,
)
from usercontext.sentry.delivery.own_work import own_work
from usercontext.sentry.delivery.owners import is_dead, new_owner
from usercontext.sentry.delivery.postgres_engine import PostgresEngine
from usercontext.sentry.delivery.redis_engine import RedisEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from usercontext.sentry.delivery.engine import Address, Engine, Entry
    from usercontext.types import Event

__all__ = ["SharedOutbox", "engine_at"]

_T = TypeVar("_T")

# How many reports are claimed in one step. A process holds no more of them in memory, and the
# others hear of a server's limits no later than after so many.
_CLAIMED_AT_ONCE = 16
# How many reports of one's own are remembered, to count their ends; and asked for at once.
_MAX_KNOWN = 20_000
_ASKED_AT_ONCE = 200
_FIRST_REST = 0.5
_LONGEST_REST = 10.0
# What a thread in a hurry waits at least.
_LEAST_SECONDS = 0.1


class _Hurry(threading.local):
    """Until when a thread may wait for an engine; of `monotonic()`."""

    deadline: float | None = None


def engine_at(address: Address, target: str) -> Engine:
    """Return a connection, not open yet, to an engine.

    Raises:
        MissingDependencyError: the engine's package is not installed.
    """
    return RedisEngine(address, target) if address.is_redis else PostgresEngine(address, target)


class SharedOutbox:
    """What one process keeps, and sends, of one server's reports in an engine.

    Args:
        url: the engine's.
        target: the server's DSN, without its secret.
        bounds: what the engine may hold for that server, of all processes.

    Attributes:
        owner: this process's name there.
        errors: what using it raises when it cannot be used.
        vanished_as: what others have taken out, they have sent.
        waits_for_limits: while a server wants to hear nothing, reports wait.

    Raises:
        ConfigurationError: the URL names no engine.
        MissingDependencyError: its package is not installed.
    """

    errors: tuple[type[Exception], ...] = (EngineError,)
    vanished_as: str | None = None
    waits_for_limits: bool = True

    def __init__(self, url: str, target: str, *, bounds: EngineBounds | None = None) -> None:
        self._address = engine_address(url)
        self.engine: Engine = engine_at(self._address, target)
        self._bounds = bounds or EngineBounds()
        self._expires = bounds is not None
        self._hurry = _Hurry()
        self._begin()

    def _begin(self) -> None:
        """Set what belongs to one process."""
        self.owner: str = new_owner()
        self._lock = threading.RLock()
        self._in_hand: dict[str, Entry] = {}
        self._claimed_at = 0.0
        self._known: dict[str, str] = {}
        self._backoff = Backoff(_FIRST_REST, _LONGEST_REST)
        self._rests_until = 0.0
        self._reason = ""

    @property
    def place(self) -> str:
        """Where the engine is, without a password."""
        return self._address.place

    # What is written

    def keep(self, events: Iterable[tuple[Event, bytes]]) -> tuple[list[bool], list[str]]:
        """Write events with their JSON; return which are new, and the ids of what made room."""
        rows = [Row(event["event_id"], payload) for event, payload in events]
        if not rows:
            return [], []
        return self._use(lambda: self._kept(rows))

    def _kept(self, rows: list[Row]) -> tuple[list[bool], list[str]]:
        tokens, gone = self.engine.keep(rows, self._bounds)
        for row, token in zip(rows, tokens, strict=True):
            if token is not None:
                self._known[row.event_id] = token
        for event_id in gone:
            self._known.pop(event_id, None)
        return [token is not None for token in tokens], gone

    def mend(self, error: Exception) -> bool:
        """Return False: what an engine holds is its own matter."""
        del error
        return False

    # What is sent

    def next(self, limit: int) -> list[tuple[str, bytes]]:
        """Claim the oldest events, or else adopt some; return their ids and payloads."""
        limit = min(limit, _CLAIMED_AT_ONCE)
        self._renew_lease()
        if not self._in_hand:
            claimed = self._use(
                lambda: self.engine.claim(self.owner, limit) or self._adopted(limit)
            )
            self._claimed_at = monotonic()
            self._in_hand = {entry.event_id: entry for entry in claimed}
        return [(each.event_id, each.payload) for each in self._in_hand.values()]

    def _adopted(self, limit: int) -> list[Entry]:
        return self.engine.adopt(self.owner, limit, is_dead)

    def _renew_lease(self) -> None:
        since = monotonic() - self._claimed_at
        if not self._in_hand or since < LEASE_SECONDS / 3:
            return
        if since >= LEASE_SECONDS:
            self._in_hand = {}  # Others have adopted that.
            return
        tokens = [entry.token for entry in self._in_hand.values()]
        self._use(lambda: self.engine.extend(self.owner, tokens))
        self._claimed_at = monotonic()

    def remove(self, event_ids: Iterable[str]) -> None:
        """Delete events, as their end is known."""
        event_ids = list(event_ids)
        found = [self._in_hand[event_id] for event_id in event_ids if event_id in self._in_hand]
        if found:
            self._use(lambda: self.engine.remove(found))
        for event_id in event_ids:
            self._in_hand.pop(event_id, None)
            self._known.pop(event_id, None)

    def give_back(self) -> None:
        """Let others send what `next` returned and `remove` was not told of."""
        tokens = [entry.token for entry in self._in_hand.values()]
        self._in_hand = {}
        if tokens:
            self._use(lambda: self.engine.free(self.owner, tokens))

    def renew(self) -> list[str]:
        """Delete what is too old; return the ids of the events."""
        if not self._expires:
            return []
        return self._use(lambda: self.engine.expire(self._bounds.max_age))

    def adopt(self) -> int:
        """Return 0: `next` adopts, when it finds nothing else."""
        return 0

    # What is asked

    def waiting(self) -> int:
        """Return how many events wait, for whoever sends them."""
        return self._use(self.engine.status).waiting

    def is_waiting(self) -> bool:
        """Return True, without looking: that is for a thread to do."""
        return True

    def vanished(self, event_ids: list[str]) -> list[str]:
        """Return which of some events of ours are not there any more."""
        gone = [event_id for event_id in event_ids if event_id not in self._known]
        asked = [event_id for event_id in event_ids if event_id in self._known]
        # Counting ends is not worth more memory than that: older ones count as sent.
        gone += asked[: max(0, len(asked) - _MAX_KNOWN)]
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            tokens = {self._known[one]: one for one in asked[start : start + _ASKED_AT_ONCE]}
            there = self._use(lambda tokens=tokens: self.engine.left(list(tokens)))  # type: ignore[misc]
            gone += [event_id for token, event_id in tokens.items() if token not in there]
        for event_id in gone:
            self._known.pop(event_id, None)
        return gone

    def paused(self) -> float:
        """Return for how many seconds the server wants to hear nothing, as any process heard."""
        return self._use(self.engine.paused)

    def pause(self, seconds: float) -> None:
        """Tell all processes for how long the server wants to hear nothing."""
        self._use(lambda: self.engine.pause(seconds))

    # What goes wrong, and what ends

    def failed(self) -> None:
        """Say once for each reason that the engine cannot be used."""
        error = sys.exc_info()[1]
        reason = error.reason if isinstance(error, EngineError) else "it cannot be used"
        error_once(
            f"outbox {self.place}: {reason}",
            "usercontext cannot use the outbox %s, and sends without it until it can: %s",
            self.place,
            reason,
        )

    def release(self) -> None:
        """Leave what is left to whoever comes next."""
        self.give_back()
        self._use(lambda: self.engine.leave(self.owner))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self.engine.close()

    @contextmanager
    def in_a_hurry(self, deadline: float) -> Iterator[None]:
        """Let this thread wait for the engine in a block until then alone."""
        before, self._hurry.deadline = self._hurry.deadline, deadline
        try:
            yield
        finally:
            self._hurry.deadline = before

    def before_fork(self) -> None:
        """Do nothing: the child leaves the connection alone."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: nothing was put away."""

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's."""
        self.engine.abandon()
        self._begin()

    # How an engine is used

    def _use(self, work: Callable[[], _T]) -> _T:
        deadline = self._hurry.deadline
        return self._used(work) if deadline is None else self._use_until(work, deadline)

    def _use_until(self, work: Callable[[], _T], deadline: float) -> _T:
        """Use the engine from another thread, which is left alone when it takes too long."""
        results: list[_T] = []
        errors: list[BaseException] = []
        ended = threading.Event()

        def run() -> None:
            try:
                with own_work:
                    results.append(self._used(work))
            except Exception as error:  # noqa: BLE001
                errors.append(error)
            finally:
                ended.set()

        try:
            start_thread(run, name="usercontext-outbox-hurry")
        except RuntimeError:  # The interpreter is shutting down.
            return self._used(work)
        if not ended.wait(max(_LEAST_SECONDS, deadline - monotonic())):
            raise EngineError("there was no answer in time")
        if errors:
            raise errors[0]
        return results[0]

    def _used(self, work: Callable[[], _T]) -> _T:
        """Use the engine, unless it has just failed: then it has a rest, so that nobody waits."""
        with self._lock:
            if monotonic() < self._rests_until:
                raise EngineError(self._reason)
            try:
                result = work()
            except EngineError as error:
                self._reason = error.reason
                self._rests_until = monotonic() + self._backoff.next()
                raise
            self._backoff.reset()
            return result
