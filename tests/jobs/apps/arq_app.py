"""Jobs of arq, with the names of `tests.jobs.promises`, and those that only arq has."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import Retry, create_pool, cron
from arq.connections import RedisSettings
from arq.worker import func

import usercontext
from tests.jobs.notes import configure, note
from usercontext.jobs.arq import UserContext

REDIS = RedisSettings.from_dsn(os.environ["JOBS_REDIS"])
QUEUE = os.environ.get("JOBS_QUEUE", "arq:queue")
configure()

if os.environ.get("JOBS_SENTRY"):
    from tests.jobs.sentry import start

    start()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()


async def look(_ctx: Any, label: str) -> None:
    """Note the user before and after the event loop has done something else."""
    note(label)
    await asyncio.sleep(0)


async def fail(_ctx: Any, label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


async def retry(ctx: Any, label: str) -> None:
    """Note the user, change it, and ask for a second attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    if ctx["job_try"] == 1:
        raise Retry(defer=0.01)


async def hand_on(ctx: Any, label: str) -> None:
    """Note the user, and enqueue another job."""
    note(label)
    await ctx["redis"].enqueue_job("look", f"{label}.child", _queue_name=QUEUE)


async def become(ctx: Any, label: str) -> None:
    """Say that bob is the user, and enqueue another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    await ctx["redis"].enqueue_job("look", f"{label}.child", _queue_name=QUEUE)


async def slow(_ctx: Any, label: str) -> None:
    """Note the user, and wait for too long."""
    note(label)
    await asyncio.Event().wait()


async def endless(_ctx: Any, label: str) -> None:
    """Note the user, and wait for as long as the worker lives."""
    note(label)
    await asyncio.Event().wait()


async def _fail(_ctx: Any, label: str) -> None:
    note(label)
    raise ValueError(label)


plain_fail = func(_fail, name="fail")


async def by_cron(_ctx: Any) -> None:
    """Note the user of what nobody enqueued."""
    note(f"cron of {QUEUE}")


async def at_start(ctx: Any) -> None:
    """Say that the worker is there."""
    del ctx
    print("arq-ready", flush=True)


async def after(ctx: Any) -> None:
    """Note the user when a job is over."""
    note(f"after {ctx['job_id']}")


class WorkerSettings:
    """What the worker runs."""

    redis_settings = REDIS
    queue_name = QUEUE
    functions = (look, fail, retry, hand_on, become, endless, func(slow, timeout=0.1))
    cron_jobs = (cron(by_cron, second=set(range(60)), run_at_startup=True),)
    on_startup = at_start
    after_job_end = after
    poll_delay = 0.02


if not os.environ.get("JOBS_PLAIN"):
    UserContext(WorkerSettings)


async def pool_of(queue: str) -> Any:
    """Return a pool as a web app has it."""
    pool = await create_pool(REDIS, default_queue_name=queue)
    UserContext(pool)
    return pool
