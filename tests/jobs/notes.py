"""What a job saw, written down where the test waits for it: a list of Redis for each label."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import redis

import usercontext
from usercontext.carried import CarriedIdentity
from usercontext.clients.logging import UserFilter

__all__ = [
    "KEY",
    "WrongUserError",
    "assert_seen",
    "configure",
    "note",
    "reported",
    "reports",
    "seen",
    "store",
]

WAIT = float(os.environ.get("JOBS_WAIT", "30"))
KEY = "a key of thirty-two bytes or more"


def store() -> redis.Redis:
    """Connect to the Redis of the test run."""
    return redis.Redis.from_url(
        os.environ["JOBS_REDIS"], decode_responses=True, socket_timeout=None
    )


def configure(**options: Any) -> None:
    """Give this process keys, and have its reports noted."""
    keys = [os.environ.get("JOBS_KEY", KEY)]
    options.setdefault("carried", CarriedIdentity(keys=keys, audience="shop"))
    dsn = os.environ.get("JOBS_DSN") or None
    usercontext.init(dsn, before_send=_note_report, **options)


def _note_report(event: Any) -> Any:
    if "exception" in event:
        label = event["exception"]["values"][-1]["value"]
    else:
        label = event["logentry"]["formatted"]
    label = re.sub(r"Job: \d+", "Job: N", label)
    with store() as client:
        client.rpush(f"reports:{label}", _name_of(event.get("user")))
    return event


def _name_of(user: Any) -> str:
    return "nobody" if not user else str(user.get("id"))


def note(label: str) -> None:
    """Write down who is the user here, and whether a peek and a log line say so too.

    A label that ends with "told" is reported as well.
    """
    user, peeked = usercontext.get_user(), usercontext.get_user(resolve=False)
    who = "nobody" if user is None else str(user.id)
    if user != peeked:
        who += f", but peeked {peeked}"
    if _logged() != (None if user is None else user.id):
        who += f", but logged {_logged()}"
    if label.endswith("told"):
        usercontext.capture_message(label)
    with store() as client:
        client.rpush(f"seen:{label}", who)


def _logged() -> Any:
    record = logging.makeLogRecord({"msg": "a job runs"})
    UserFilter().filter(record)
    return vars(record)["user_id"]


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


class WrongUserError(AssertionError):
    """Another user was seen than was expected.

    Its text begins with the way in which that is wrong: `leak` (somebody who has no business
    there), `stale` (whom an earlier attempt has set), `lost` (nobody, where there is a user).
    """


def assert_seen(found: str | list[str], expected: str | list[str]) -> None:
    """Fail, and say in which way, if a job's user is not who was expected."""
    if found != expected:
        raise WrongUserError(f"{_kind(found, expected)}: expected {expected!r}, saw {found!r}")


def _kind(found: str | list[str], expected: str | list[str]) -> str:
    seen = [found] if isinstance(found, str) else found
    wanted = [expected] if isinstance(expected, str) else expected
    wrong = [one for one, other in zip(seen, wanted, strict=True) if one != other]
    if set(wrong) - {"nobody", "changed"}:
        return "leak"
    return "stale" if "changed" in wrong else "lost"
