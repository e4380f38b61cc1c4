"""How long a server is left alone."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.sentry.delivery.rate_limits import RateLimits, parse_rate_limits

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
    limits.update(429, {"retry-after": formatdate(time.time() + 100, usegmt=True)}, 0.0)

    assert 97 <= seconds_limited(limits) <= 101


DATES = {
    "IMF-fixdate": "%a, %d %b %Y %H:%M:%S GMT",
    "RFC 850": "%A, %d-%b-%y %H:%M:%S GMT",
    "asctime": "%a %b %e %H:%M:%S %Y",
    "no zone": "%a, %d %b %Y %H:%M:%S -0000",
}


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system's zone cannot be changed")
@pytest.mark.parametrize("form", DATES.values(), ids=DATES)
def test_forms_of_dates(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date is in UTC, in all of its forms and wherever we are (RFC 9110, 5.6.7)."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    limits = RateLimits()
    try:
        date = time.strftime(form, time.gmtime(time.time() + 100))
        limits.update(429, {"retry-after": date}, 0.0)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert 97 <= seconds_limited(limits) <= 101


WORDS = st.sampled_from(
    ["Sun,", "Nov", "6", "99", "1994", "99999", "08:49:37", "25:61", "GMT", "EST", "+9999", "-"]
)


@given(st.text() | st.lists(WORDS).map(" ".join))
def test_any_retry_after(text: str) -> None:
    """No Retry-After raises or holds back for ever."""
    limits = RateLimits()
    limits.update(429, {"retry-after": text}, 0.0)

    assert not limits.is_limited(1e300)


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
