"""What a job saw, written down where the test waits for it: a list of Redis for each label."""

from __future__ import annotations

import os
import re
from typing import Any

import redis

import usercontext
from usercontext.carried import CarriedIdentity

__all__ = ["KEY", "configure", "note", "reported", "reports", "seen", "store"]

WAIT = float(os.environ.get("JOBS_WAIT", "30"))
KEY = "a key of thirty-two bytes or more"


def store() -> redis.Redis:
    """Connect to the Redis of the test run."""
    return redis.Redis.from_url(
        os.environ["JOBS_REDIS"], decode_responses=True, socket_timeout=None
    )


def configure(**options: Any) -> None:
    """Give this process keys, and have its reports noted."""
    options.setdefault("carried", CarriedIdentity(keys=[KEY], audience="shop"))
    dsn = os.environ.get("JOBS_DSN") or None
    usercontext.init(dsn, before_send=_note_report, **options)


def _note_report(event: Any) -> Any:
    label = event["exception"]["values"][-1]["value"] if "exception" in event else event["message"]
    label = re.sub(r"Job: \d+", "Job: N", label)
    with store() as client:
        client.rpush(f"reports:{label}", _name_of(event.get("user")))
    return event


def _name_of(user: Any) -> str:
    return "nobody" if not user else str(user.get("id"))


def note(label: str) -> None:
    """Write down who is the user here, and whether a peek says so too."""
    user, peeked = usercontext.get_user(), usercontext.get_user(resolve=False)
    who = "nobody" if user is None else str(user.id)
    with store() as client:
        client.rpush(f"seen:{label}", who if user == peeked else f"{who}, but peeked {peeked}")


def _next(key: str) -> str:
    with store() as client:
        found: Any = client.blpop([key], timeout=WAIT)
    assert found is not None, f"nothing came to {key}"
    return str(found[1])


def seen(label: str) -> str:
    """Wait for what a job noted, and return who was the user there."""
    return _next(f"seen:{label}")


def reported(label: str) -> str:
    """Wait for the report of the error with this text, and return whom it names."""
    return _next(f"reports:{label}")


def reports(label: str) -> int:
    """Return how many reports with this text wait to be looked at."""
    with store() as client:
        return int(client.llen(f"reports:{label}"))  # type: ignore[arg-type]
