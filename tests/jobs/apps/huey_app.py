"""Tasks of Huey, with the names of `tests.jobs.promises`, and those that only Huey has."""

from __future__ import annotations

import os
import time
from typing import Any

from huey import RedisHuey
from huey.consumer import Scheduler
from huey.serializer import SignedSerializer

import usercontext
from tests.jobs.notes import configure, note, store
from usercontext.jobs.huey import UserContext

QUEUE = os.environ.get("JOBS_QUEUE", "huey")
# A minute is long in a test.
Scheduler.periodic_task_seconds = 1


def huey_of(queue: str) -> RedisHuey:
    """Return an instance; one queue's messages are signed and compressed."""
    options: dict[str, Any] = {}
    if "signed" in queue:
        options["serializer"] = SignedSerializer("secret", compression=True)
    url = os.environ["JOBS_REDIS"] + "?socket_timeout=60"
    return RedisHuey(queue, url=url, **options)


huey = huey_of(QUEUE)
configure()

if os.environ.get("JOBS_SENTRY"):
    from tests.jobs.sentry import start

    start()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()

if not os.environ.get("JOBS_PLAIN"):
    UserContext(huey)


@huey.task()
def look(label: str, *_: Any) -> str:
    """Note the user."""
    note(label)
    return label


@huey.task()
def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


def _fail_once(label: str) -> None:
    note(label)
    usercontext.set_user({"id": "changed"})
    with store() as client:
        if client.set(f"tried:{label}", 1, nx=True):
            raise ValueError(label)


@huey.task(retries=1)
def retry(label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    _fail_once(label)


@huey.task(retries=1, retry_delay=0.1)
def retry_later(label: str) -> None:
    """Note the user, change it, and fail at the first attempt; the second comes later."""
    _fail_once(label)


@huey.task()
def hand_on(label: str) -> None:
    """Note the user, and enqueue another task."""
    note(label)
    look(f"{label}.child")


@huey.task()
def become(label: str) -> None:
    """Say that bob is the user, and enqueue another task."""
    usercontext.set_user({"id": "bob"})
    note(label)
    look(f"{label}.child")


@huey.task(timeout=1)
def slow(label: str) -> None:
    """Note the user, and go on for too long."""
    note(label)
    while True:
        time.sleep(0.01)


@huey.task()
def endless(label: str) -> None:
    """Note the user, and go on for as long as the consumer lives."""
    note(label)
    while True:
        time.sleep(0.01)


@huey.task()
def on_error(label: str, _error: Any = None) -> None:
    """Note the user for the task that failed."""
    note(f"{label}.error")


@huey.periodic_task(lambda _now: True)
def by_schedule() -> None:
    """Note the user of what nobody enqueued."""
    note(f"schedule of {QUEUE}")


@huey.signal("executing", "complete")
def on_signal(name: str, task: Any, *_: Any) -> None:
    """Note the user of a signal."""
    if task.args and "signals" in task.args[0]:
        note(f"{task.args[0]}.{name}")
