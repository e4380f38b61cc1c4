"""How fast a process goes on once a server is back; a rule without I/O.

A thousand processes find the same moment that their server is back, and each of them has kept what
it could not send. All at once, that would be the next outage. Each one takes about as long to catch
up as the outage has lasted: together they send less than twice as much as ever.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING

from usercontext.sentry.delivery.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pace"]

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 20.0
# No process waits longer than that, however seldom it reports.
_LONGEST = 300.0
# How many times as fast as events come they are sent while catching up.
_SPEED = 1.6
# From how many seconds on an answer is so slow that events queue up.
_SLOW = 1.0


class Pace:
    """Says when to try again during an outage, and how fast to send after it.

    Args:
        came: returns how many events this process has had to send so far. One that has had none
            of its own, and sends other ones, waits as long as `Backoff` says.
        clock: tells the time, in seconds.
        chance: returns a number from 0 to 1.
    """

    def __init__(
        self,
        came: Callable[[], int],
        *,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._came = came
        self._clock = clock
        self._chance = chance
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, chance=chance)
        self._since: float | None = None
        self._came_before = 0

    @property
    def is_catching_up(self) -> bool:
        """Whether there has been an outage, and what has waited is not sent yet."""
        return self._since is not None

    def failed(self) -> float:
        """Return for how many seconds to leave a server alone that has just not answered."""
        self._begin()
        return max(self._backoff.next(), self._interval())

    def succeeded(self, took: float = 0.0) -> float:
        """Return how many seconds to wait until the next event, after one has been sent.

        Args:
            took: after how many seconds it was answered; a slow server is half an outage.
        """
        self._backoff.reset()
        if took >= _SLOW:
            self._begin()
        return self._interval() / _SPEED

    def caught_up(self) -> None:
        """Take note that nothing waits any more."""
        self._backoff.reset()
        self._since = None

    def _begin(self) -> None:
        if self._since is None:
            self._since, self._came_before = self._clock(), self._came()

    def _interval(self) -> float:
        """Return in about which time one event has come since the outage began."""
        came = self._came()
        if self._since is None or came == 0:
            return 0.0
        mean = (self._clock() - self._since) / max(1, came - self._came_before)
        return min(_LONGEST, mean) * (0.5 + self._chance())
