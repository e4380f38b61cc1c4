"""How queues carry the user of whoever enqueues, checked by type checkers and never run."""

from __future__ import annotations

from typing import Any

import usercontext
from usercontext import User
from usercontext.carried import CarriedIdentity
from usercontext.jobs import (
    apscheduler,
    arq,
    celery,
    django_tasks,
    dramatiq,
    huey,
    procrastinate,
    rq,
    saq,
    taskiq,
)
from usercontext.jobs.base import Job

carried = CarriedIdentity(keys=["k" * 32, b"o" * 32], fields=("id", "username"), max_age=3600)
usercontext.init(None, carried=carried)
CarriedIdentity(key="k" * 32)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usercontext.init(None, carried="k" * 32)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Each is checked, whether or not its queue is installed beside the type checker.
queue: Any = None


def of_job(job: Job) -> User | None:
    """Find the user of a job that carries nobody."""
    return None


celery.UserContext(queue, resolver=of_job)
rq.UserContext()
rq.UserContext(queue, resolver=of_job)
dramatiq.UserContext(queue, resolver=of_job)
arq.UserContext(queue, resolver=of_job)
taskiq.UserContext(queue, resolver=of_job)
huey.UserContext(queue, resolver=of_job)
procrastinate.UserContext(queue, resolver=of_job)
saq.UserContext(queue, resolver=of_job)
django_tasks.UserContext(resolver=of_job)
apscheduler.UserContext(queue)

celery.UserContext(queue, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
rq.UserContext(resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
saq.UserContext(queue, resolve="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
taskiq.UserContext(queue, resolver="me")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
