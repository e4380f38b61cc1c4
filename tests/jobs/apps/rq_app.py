"""Jobs of RQ, with the names of `tests.jobs.promises`, and those that only RQ has."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from redis import Redis
from rq import Callback, Queue, Retry

import usercontext
from tests.jobs.notes import configure, note
from usercontext.jobs.rq import UserContext

connection = Redis.from_url(os.environ["JOBS_REDIS"], socket_timeout=None)
queue = Queue(os.environ.get("JOBS_QUEUE", "rq"), connection=connection)
configure()

if os.environ.get("JOBS_SENTRY"):
    from tests.jobs.sentry import start

    start()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()

if not os.environ.get("JOBS_PLAIN"):
    UserContext()


def look(label: str) -> str:
    """Note the user."""
    note(label)
    return label


def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


async def alook(label: str) -> None:
    """Note the user, once the event loop has done something else."""
    await asyncio.sleep(0)
    note(label)


async def afail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


def retry(label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    if not connection.set(f"tried:{label}", 1, nx=True):
        return
    raise ValueError(label)


def hand_on(label: str) -> None:
    """Note the user, and enqueue another job."""
    note(label)
    queue.enqueue(look, f"{label}.child")


def become(label: str) -> None:
    """Say that bob is the user, and enqueue another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    queue.enqueue(look, f"{label}.child")


def killed(label: str) -> None:
    """Note the user, and kill the own process."""
    note(label)
    os.kill(os.getpid(), signal.SIGKILL)


def lost(label: str) -> None:
    """Note the user, and kill the worker and the own process."""
    note(label)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def slow(label: str) -> None:
    """Note the user, and wait for too long."""
    note(label)
    signal.pause()


def tells_sentry(label: str) -> None:
    """Tell sentry-sdk itself who is the user."""
    import sentry_sdk

    sentry_sdk.set_user({"id": "told"})
    note(label)


def again(label: str) -> Any:
    """Note the user, change it, and ask for a second attempt by what is returned."""
    note(label)
    usercontext.set_user({"id": "changed"})
    return Retry(max=1) if connection.set(f"tried:{label}", 1, nx=True) else None


def on_stopped(job: Any, *_: Any) -> None:
    """Note the user once a job was stopped."""
    note(f"{job.args[0]}.stopped")


def on_success(job: Any, *_: Any) -> None:
    """Note the user once a job is over."""
    note(f"{job.args[0]}.success")


def on_failure(job: Any, *_: Any) -> None:
    """Note the user once a job has failed."""
    note(f"{job.args[0]}.failure")


def enqueue(name: str, label: str, **options: Any) -> Any:
    """Enqueue a job; the one that fails once is tried twice."""
    if name == "retry":
        options["retry"] = Retry(max=1)
    return queue.enqueue(globals()[name], label, **options)


CALLBACKS = {
    "on_success": Callback(on_success),
    "on_failure": Callback(on_failure),
    "on_stopped": Callback(on_stopped),
}
