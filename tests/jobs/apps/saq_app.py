"""Jobs of SAQ, with the names of `tests.jobs.promises`, and those that only SAQ has."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from saq import CronJob, Queue

import usercontext
from tests.jobs.notes import configure, note, store
from usercontext.jobs.saq import UserContext

URL = os.environ["JOBS_REDIS"]
QUEUE = os.environ.get("JOBS_QUEUE", "saq")
configure()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()


async def look(_ctx: Any, *, label: str) -> None:
    """Note the user before and after the event loop has done something else."""
    note(label)
    await asyncio.sleep(0)


def sync_look(_ctx: Any, *, label: str) -> None:
    """Note the user in a thread."""
    note(label)


async def fail(_ctx: Any, *, label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


async def retry(ctx: Any, *, label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    ctx["job"].meta["changed"] = True
    with store() as client:
        if client.set(f"tried:{label}", 1, nx=True):
            raise ValueError(label)


async def hand_on(ctx: Any, *, label: str) -> None:
    """Note the user, and enqueue another job."""
    note(label)
    await ctx["job"].queue.enqueue("look", label=f"{label}.child")


async def become(ctx: Any, *, label: str) -> None:
    """Say that bob is the user, and enqueue another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    await ctx["job"].queue.enqueue("look", label=f"{label}.child")


async def slow(_ctx: Any, *, label: str) -> None:
    """Note the user, and wait for too long."""
    note(label)
    await asyncio.Event().wait()


async def endless(_ctx: Any, *, label: str) -> None:
    """Note the user, and wait for as long as the worker lives."""
    note(label)
    await asyncio.Event().wait()


async def by_cron(_ctx: Any) -> None:
    """Note the user of what nobody enqueued."""
    note(f"cron of {QUEUE}")


async def at_start(ctx: Any) -> None:
    """Say that the worker is there."""
    del ctx
    print("saq-ready", flush=True)


async def after(ctx: Any) -> None:
    """Note the user when a job is over."""
    note(f"after {ctx['job'].key}")


settings = {
    "queue": Queue.from_url(URL, name=QUEUE),
    "functions": [look, sync_look, fail, retry, hand_on, become, slow, endless],
    "cron_jobs": [CronJob(by_cron, cron="* * * * * */1")],
    "startup": at_start,
    "after_process": after,
    "timers": {"schedule": 1},
}


if not os.environ.get("JOBS_PLAIN"):
    UserContext(settings)
