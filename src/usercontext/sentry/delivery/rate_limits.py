"""How long a server wants to hear nothing; rules without I/O.

Sentry's developer documentation, "Rate Limiting": the header `X-Sentry-Rate-Limits` is read on
every response, `Retry-After` on a 429 without it.
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["RateLimits", "parse_rate_limits"]

_DEFAULT_SECONDS = 60.0
_ALL = ""
#: Limits of our categories count; a server may name others that are not for us.
_OURS = frozenset({_ALL, "error"})


def parse_rate_limits(text: str) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Yield the seconds and categories of each limit, passing over what cannot be read.

    No category, as `("",)`, means all of them.
    """
    for limit in text.split(","):
        fields = [field.strip() for field in limit.split(":")]
        seconds = _seconds(fields[0])
        if seconds is not None and len(fields) > 1:
            yield seconds, tuple(name.strip() for name in fields[1].split(";"))


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _retry_after(text: str | None) -> float:
    """Return the seconds of a `Retry-After` header (RFC 9110, 10.2.3), 60 if unreadable."""
    if text is None:
        return _DEFAULT_SECONDS
    seconds = _seconds(text)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)  # The old form of asctime() names no zone.
        return max(0.0, date.timestamp() - time())
    except (ValueError, OverflowError, OSError):
        return _DEFAULT_SECONDS


class RateLimits:
    """Remembers until when one server takes no events; one object for each DSN."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = -math.inf

    def is_limited(self, now: float) -> bool:
        """Return whether an event must be dropped at `now`, a time of `time.monotonic()`."""
        return now < self._until

    def seconds_left(self, now: float) -> float:
        """Return for how long events must be held back at `now`."""
        return max(0.0, self._until - now)

    def update(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """Learn from a response; `headers` finds names in lower case."""
        text = headers.get("x-sentry-rate-limits")
        limits = list(parse_rate_limits(text)) if text else []
        if status == 429 and not limits:
            limits = [(_retry_after(headers.get("retry-after")), (_ALL,))]
        for seconds, categories in limits:
            if not _OURS.isdisjoint(categories):
                # The maximum: a shorter limit of another scope must not end a longer one.
                self._until = max(self._until, now + seconds)
