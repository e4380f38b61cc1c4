"""Tasks of Procrastinate, with the names of `tests.jobs.promises`, and those that only it has."""

from __future__ import annotations

import asyncio
import os

from procrastinate import App, PsycopgConnector, RetryStrategy

import usercontext
from tests.jobs.notes import configure, note
from usercontext.jobs.procrastinate import UserContext

app = App(connector=PsycopgConnector(conninfo=os.environ["JOBS_POSTGRES"], min_size=1, max_size=3))
configure()

if os.environ.get("JOBS_STARTER"):
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()

if not os.environ.get("JOBS_PLAIN"):
    UserContext(app)

QUEUE = os.environ.get("JOBS_QUEUE", "procrastinate")


@app.task
def look(label: str) -> None:
    """Note the user."""
    note(label)


@app.task
async def alook(label: str) -> None:
    """Note the user before and after the event loop has done something else."""
    note(label)
    await asyncio.sleep(0)
    note(label)


@app.task
def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@app.task
async def afail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@app.task(pass_context=True, retry=RetryStrategy(max_attempts=2))
def retry(context: object, label: str) -> None:
    """Note the user, change it, and fail at the first attempt."""
    note(label)
    usercontext.set_user({"id": "changed"})
    if context.job.attempts == 0:  # type: ignore[attr-defined]
        raise ValueError(label)


@app.task
async def hand_on(label: str) -> None:
    """Note the user, and defer another job."""
    note(label)
    await look.configure(queue=QUEUE).defer_async(label=f"{label}.child")


@app.task
async def become(label: str) -> None:
    """Say that bob is the user, and defer another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    await look.configure(queue=QUEUE).defer_async(label=f"{label}.child")


@app.task
async def endless(label: str) -> None:
    """Note the user, and wait for as long as the worker lives."""
    note(label)
    await asyncio.Event().wait()


@app.periodic(cron="* * * * * */1")
@app.task(queue=QUEUE)
async def by_schedule(timestamp: int) -> None:
    """Note the user of what nobody deferred."""
    del timestamp
    note(f"schedule of {QUEUE}")
