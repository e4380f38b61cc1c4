"""How long to wait before the next try, when one has failed; a rule without I/O."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff"]

_MOST_DOUBLINGS = 30


class Backoff:
    """Waits twice as long after each failure, by chance a part of that: not all at once.

    Args:
        first: about how many seconds to wait after the first failure.
        longest: how many at most.
        chance: returns a number from 0 to 1.
    """

    def __init__(
        self, first: float, longest: float, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._longest = longest
        self._chance = chance
        self._failures = 0

    def next(self) -> float:
        """Return how many seconds to wait, as one more try has failed."""
        seconds = min(self._longest, self._first * 2.0 ** min(self._failures, _MOST_DOUBLINGS))
        self._failures += 1
        return seconds * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """Begin again, as a try has succeeded."""
        self._failures = 0
