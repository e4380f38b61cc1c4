"""Actors of Dramatiq, with the names of `tests.jobs.promises`, and those that only it has."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend

import usercontext
from tests.jobs.notes import configure, note, store
from usercontext.jobs.dramatiq import UserContext

configure()

if os.environ.get("JOBS_SENTRY"):
    from sentry_sdk.integrations.dramatiq import DramatiqIntegration

    from tests.jobs.sentry import start

    start(DramatiqIntegration())

broker = RedisBroker(
    url=os.environ["JOBS_REDIS"],
    namespace=os.environ.get("JOBS_QUEUE", "dramatiq"),
    # What a killed worker had taken comes back at once, not after a minute.
    heartbeat_timeout=1000,
    maintenance_chance=1_000_000,
)
broker.add_middleware(AsyncIO())
broker.add_middleware(GroupCallbacks(RedisBackend(url=os.environ["JOBS_REDIS"])))
dramatiq.set_broker(broker)

if not os.environ.get("JOBS_PLAIN"):
    UserContext(broker)

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()


@dramatiq.actor(max_retries=0)
def look(label: str, *_: object) -> str:
    """Note the user."""
    note(label)
    return label


@dramatiq.actor(max_retries=0)
async def alook(label: str) -> None:
    """Note the user before and after the event loop has done something else."""
    note(label)
    await asyncio.sleep(0)
    note(label)


@dramatiq.actor(max_retries=0)
def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@dramatiq.actor(max_retries=0)
async def afail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@dramatiq.actor(max_retries=1, min_backoff=10, max_backoff=20)
def retry(label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    with store() as client:
        if client.set(f"tried:{label}", 1, nx=True):
            raise ValueError(label)


@dramatiq.actor(max_retries=0)
def hand_on(label: str) -> None:
    """Note the user, and send another message."""
    note(label)
    look.send(f"{label}.child")


@dramatiq.actor(max_retries=0)
def become(label: str) -> None:
    """Say that bob is the user, and send another message."""
    usercontext.set_user({"id": "bob"})
    note(label)
    look.send(f"{label}.child")


@dramatiq.actor(max_retries=0, time_limit=100)
def slow(label: str) -> None:
    """Note the user, and go on for too long."""
    note(label)
    while True:
        time.sleep(0.01)


@dramatiq.actor(max_retries=0)
def killed(label: str) -> None:
    """Note the user, and kill the own process at the first attempt."""
    note(label)
    with store() as client:
        if client.set(f"tried:{label}", 1, nx=True):
            os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(max_retries=0)
def on_exhausted(message: dict, _retries: dict) -> None:  # type: ignore[type-arg]
    """Note the user for the message that is not tried again."""
    note(f"{message['args'][0]}.exhausted")


@dramatiq.actor(max_retries=0)
def on_failure(message: dict, _error: dict) -> None:  # type: ignore[type-arg]
    """Note the user for the message that failed."""
    note(f"{message['args'][0]}.failure")


@dramatiq.actor(max_retries=0)
def on_success(_message: dict, result: str) -> None:  # type: ignore[type-arg]
    """Note the user for the message that is done."""
    note(f"{result}.success")


@dramatiq.actor(max_retries=0, throws=KeyError)
def expected(label: str) -> None:
    """Fail in a way that is not an error."""
    note(label)
    raise KeyError(label)
