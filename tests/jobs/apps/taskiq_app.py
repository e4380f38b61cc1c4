"""Tasks of Taskiq, with the names of `tests.jobs.promises`, and those that only it has."""

from __future__ import annotations

import asyncio
import os
from threading import Event
from typing import Any

from taskiq import SimpleRetryMiddleware, TaskiqScheduler
from taskiq.schedule_sources import LabelScheduleSource
from taskiq_pipelines import PipelineMiddleware
from taskiq_redis import (
    ListQueueBroker,
    ListRedisScheduleSource,
    RedisAsyncResultBackend,
    RedisStreamBroker,
)

import usercontext
from tests.jobs.notes import configure, note, store
from usercontext.jobs.taskiq import UserContext

URL = os.environ["JOBS_REDIS"]
QUEUE = os.environ.get("JOBS_QUEUE", "taskiq")


def stream_of(queue: str) -> RedisStreamBroker:
    """Return a broker that delivers again what a killed worker had taken."""
    return RedisStreamBroker(URL, queue_name=queue, idle_timeout=500, socket_timeout=None)


plain = ListQueueBroker(URL, queue_name=QUEUE, socket_timeout=None)
broker = (stream_of(QUEUE) if os.environ.get("JOBS_STREAM") else plain).with_result_backend(
    RedisAsyncResultBackend(URL)
)
broker.add_middlewares(SimpleRetryMiddleware(), PipelineMiddleware())


def source_of(queue: str) -> ListRedisScheduleSource:
    """Return where what is put off for the workers of a queue is kept."""
    return ListRedisScheduleSource(URL, prefix=f"schedule-{queue}")


source = source_of(QUEUE)
scheduler = TaskiqScheduler(broker, [source, LabelScheduleSource(broker)])
configure()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()

if not os.environ.get("JOBS_PLAIN"):
    UserContext(broker)

finished = Event()


@broker.task
async def look(label: str, *_: Any) -> str:
    """Note the user before and after the event loop has done something else."""
    note(label)
    await asyncio.sleep(0)
    return label


@broker.task
def sync_look(label: str) -> None:
    """Note the user in a thread or process."""
    note(label)


@broker.task
async def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@broker.task
def sync_fail(label: str) -> None:
    """Note the user in a thread or process, and fail."""
    note(label)
    raise ValueError(label)


@broker.task(retry_on_error=True, max_retries=3)
async def retry(label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    with store() as client:
        if client.set(f"tried:{label}", 1, nx=True):
            raise ValueError(label)


@broker.task
async def hand_on(label: str) -> None:
    """Note the user, and send another task."""
    note(label)
    await look.kiq(f"{label}.child")


@broker.task
async def become(label: str) -> None:
    """Say that bob is the user, and send another task."""
    usercontext.set_user({"id": "bob"})
    note(label)
    await look.kiq(f"{label}.child")


@broker.task
async def endless(label: str) -> None:
    """Note the user, and wait for as long as the worker lives."""
    note(label)
    await asyncio.Event().wait()


@broker.task(timeout=0.1)
async def slow(label: str) -> None:
    """Note the user, and wait for too long."""
    note(label)
    await asyncio.Event().wait()


@broker.task(timeout=0.1)
def outlive(label: str) -> None:
    """Run on after the time-out, and note the user then."""
    note(label)
    with store() as client:
        client.blpop([f"go on:{label}"], timeout=20)
    note(f"{label}.later")


@broker.task(schedule=[{"interval": 1}])
async def by_schedule() -> None:
    """Note the user of what nobody sent."""
    note(f"schedule of {QUEUE}")
