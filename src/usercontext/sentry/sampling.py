"""Which events are wanted, by chance and by their user: rules without I/O.

Both are asked before an event is built, as building costs most.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from time import monotonic
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.privacy.pseudonyms import digest
from usercontext.user import AUTO_ADDRESS, identity_in

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

__all__ = ["Sampling", "UserLimit", "identity_of", "tell_limited", "user_limit"]

_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_LIMIT = re.compile(rf"\s*(\d{{1,9}})\s*/\s*({'|'.join(_SECONDS)})\s*", re.ASCII)
_MOST = 10_000
# Times that are remembered of all users together; about 8 MB at most.
_MAX_TIMES = 32_768
# What a float holds exactly, so that the place of an identity is below 1.
_DIGITS = 13


def identity_of(user: Mapping[str, Any] | None) -> str | None:
    """Return the identity of a user's fields; None for nobody, and for an address yet to come."""
    identity = None if user is None else identity_in(user)
    return None if identity == f"ip:{AUTO_ADDRESS}" else identity


class Sampling:
    """Keeps a part of all events, or the events of a part of all users.

    Args:
        rate: which part, 0.0 to 1.0.
        key: decides by user, by a hash with this key: one user's events are kept together or
            dropped together, in every process that has the key, and whoever is kept at one rate
            is kept at each higher one. None: decides by event, as for events of nobody.
    """

    def __init__(self, rate: float, key: bytes | None = None) -> None:
        self._rate = rate
        self._key = key
        self._random = _random() if rate < 1.0 else None

    @property
    def is_by_user(self) -> bool:
        """Whether it asks for the user."""
        return self._key is not None and self._rate < 1.0

    def keeps(self, identity: str | None = None) -> bool:
        """Return whether an event is kept."""
        if self._random is None:
            return True
        if self._key is None or identity is None:
            return self._random.random() < self._rate
        return _place(identity, self._key) < self._rate


def _place(identity: str, key: bytes) -> float:
    """Return where an identity stands, evenly spread from 0 up to 1."""
    return float(int(digest(identity, key)[:_DIGITS], 16) / 16**_DIGITS)


def _random() -> random.Random:
    import random

    # Its own: seeding the global one, as tests do, must not decide what is reported.
    return random.Random()  # noqa: S311


class UserLimit:
    """Lets at most so many events of one user in, in any time of a certain length.

    It counts for one process. What it remembers is bounded: whoever was seen longest ago is
    forgotten first.

    Args:
        number: how many events.
        seconds: in which time.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, number: int, seconds: float, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._number = number
        self._seconds = seconds
        self._clock = clock
        self._begin()

    def admits(self, identity: str) -> bool:
        """Return whether one more event of a user is let in, and count it if it is."""
        if self._pid != os.getpid():
            self._begin()  # A fork: the lock may be held by a thread that is not here.
        now, user = self._clock(), hash(identity)
        with self._lock:
            times = self._times.pop(user, None) or []
            gone = bisect_right(times, now - self._seconds)
            del times[:gone]
            is_let_in = len(times) < self._number
            if is_let_in:
                times.append(now)
            self._held += is_let_in - gone
            self._times[user] = times  # the one seen last
            while self._held > _MAX_TIMES:
                self._forget_one()
        return is_let_in

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a signal handler or finalizer may capture on the thread that holds it.
        self._lock = threading.RLock()
        self._times: dict[int, list[float]] = {}
        self._held = 0

    def _forget_one(self) -> None:
        longest_ago = next(iter(self._times))
        self._held -= len(self._times.pop(longest_ago))


def user_limit(option: str, value: object) -> UserLimit | None:
    """Return the limit of a text such as "10/minute"; None without one."""
    if value is None:
        return None
    found = _LIMIT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigurationError(
            f"{option} must be a number of events in a second, minute, hour or day, not "
            f'{value!r:.80}: write {option}="10/minute"'
        )
    number = int(found[1])
    if not 1 <= number <= _MOST:
        raise ConfigurationError(
            f"{option} must let 1 to {_MOST} events in, not {number}: write "
            f'{option}="10/minute", or leave it out for no limit'
        )
    return UserLimit(number, _SECONDS[found[2]])


def tell_limited() -> None:
    """Say once that a user's events came faster than they may."""
    warn_once(
        "max_per_user",
        "a user's reports came faster than max_per_user allows: further ones are dropped, and "
        "counted as max_per_user",
    )
