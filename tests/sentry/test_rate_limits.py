"""How long a server is left alone."""

from __future__ import annotations

from email.utils import formatdate
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.sentry.rate_limits import RateLimits, parse_rate_limits

# header: seconds for which our events are held back
HEADERS = {
    "60:error:organization": 60.0,
    "60:default;error;security:organization": 60.0,
    "2.5:error:key": 2.5,
    "60::organization": 60.0,
    "60:": 60.0,
    " 60 : error ; default : organization ": 60.0,
    "60:error:organization:quota_exceeded:a;b:what:comes:later": 60.0,
    "10:error:key, 60:error:organization": 60.0,
    "60:error:key, 10:error:organization": 60.0,
    "60:transaction:key": 0.0,
    "60:never_heard_of:organization": 0.0,
    "60:transaction:key, 5:error:key": 5.0,
    "nonsense, 7:error:key": 7.0,
    "nan:error:key": 0.0,
    "inf:error:key": 0.0,
    "-5:error:key": 0.0,
    "60": 0.0,
    ",:,;": 0.0,
    "": 0.0,
}


def seconds_limited(limits: RateLimits) -> float:
    """Return for how long after 0.0 events are held back."""
    return next((n / 2 for n in range(20_000) if not limits.is_limited(n / 2)), float("inf"))


@pytest.mark.parametrize(("header", "seconds"), HEADERS.items(), ids=HEADERS)
def test_header(header: str, seconds: float) -> None:
    """The header holds back for its longest limit that is for errors or for all."""
    limits = RateLimits()
    limits.update(200, {"x-sentry-rate-limits": header}, 0.0)

    assert seconds_limited(limits) == seconds


RETRY_AFTER = {
    "seconds": ("17", 17.0),
    "parts of a second": ("1.5", 1.5),
    "nothing": (None, 60.0),
    "nonsense": ("soon", 60.0),
    "a date gone by": ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    "a date that is none": ("Wed, 99 Oct 99999 07:28:00 GMT", 60.0),
}


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_retry_after(value: str | None, seconds: float) -> None:
    """A 429 without the header holds back for Retry-After, else for a minute."""
    limits = RateLimits()
    limits.update(429, {} if value is None else {"retry-after": value}, 0.0)

    assert seconds_limited(limits) == seconds


def test_retry_after_date() -> None:
    """Retry-After may be an HTTP date."""
    limits = RateLimits()
    limits.update(429, {"retry-after": formatdate(time() + 100, usegmt=True)}, 0.0)

    assert 97 <= seconds_limited(limits) <= 101


def test_only_a_429_needs_no_header() -> None:
    """Retry-After of another answer changes nothing."""
    limits = RateLimits()
    limits.update(503, {"retry-after": "100"}, 0.0)

    assert not limits.is_limited(0.0)


def test_header_beats_retry_after() -> None:
    """A 429 with the header is judged by it alone."""
    limits = RateLimits()
    headers = {"x-sentry-rate-limits": "60:transaction:key", "retry-after": "9"}
    limits.update(429, headers, 0.0)

    assert not limits.is_limited(0.0)


def test_longest_limit_stays() -> None:
    """A later, shorter limit does not end a longer one."""
    limits = RateLimits()
    limits.update(200, {"x-sentry-rate-limits": "100:error:key"}, 0.0)
    limits.update(200, {"x-sentry-rate-limits": "1:error:key"}, 10.0)

    assert seconds_limited(limits) == 100.0


@given(st.text() | st.from_regex(r"([0-9.e+-]+:[a-z;]*:?,? ?)*", fullmatch=True))
def test_any_header(text: str) -> None:
    """No header raises or holds back for ever."""
    for seconds, categories in parse_rate_limits(text):
        assert 0.0 <= seconds < float("inf")
        assert categories
