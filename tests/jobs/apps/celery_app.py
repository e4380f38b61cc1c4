"""A Celery app with the jobs of `tests.jobs.promises`, and those that only Celery has."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

from celery import Celery, Task, chain, chord, signals
from celery.exceptions import Ignore, Reject

import usercontext
from tests.jobs.notes import configure, note, store
from usercontext.jobs.celery import UserContext

BROKER = os.environ.get("JOBS_BROKER", os.environ["JOBS_REDIS"])
app = Celery("shop", broker=BROKER, backend=os.environ["JOBS_REDIS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_default_queue=os.environ.get("JOBS_QUEUE", "celery"),
    task_publish_retry=False,
)
configure()

if os.environ.get("JOBS_SENTRY"):
    from tests.jobs.sentry import start

    start()

if not os.environ.get("JOBS_PLAIN"):
    UserContext(app)

if os.environ.get("JOBS_STARTER"):
    # The worker is started where somebody is the user.
    usercontext.isolation_scope(user={"id": "starter"}).__enter__()


BEAT = f"beat of {app.conf.task_default_queue}"
app.conf.beat_schedule = {
    "look": {"task": "tests.jobs.apps.celery_app.look", "schedule": 1.0, "args": (BEAT,)}
}
app.conf.beat_schedule_filename = os.environ.get("JOBS_SCHEDULE", "")


@app.task
def look(label: str, *_: Any) -> str:
    """Note the user."""
    note(label)
    return label


@app.task
def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@app.task(bind=True, max_retries=3)
def retry(self: Any, label: str) -> None:
    """Note the user, and fail twice in a row: one retry is asked for after another."""
    note(label)
    usercontext.set_user({"id": "changed"})
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@app.task(autoretry_for=(ValueError,), max_retries=1, retry_backoff=False, default_retry_delay=0)
def autoretry(label: str) -> None:
    """Note the user, and fail at every attempt."""
    note(label)
    raise ValueError(label)


@app.task
def hand_on(label: str) -> None:
    """Note the user, and enqueue another job."""
    note(label)
    look.delay(f"{label}.child")


@app.task
def become(label: str) -> None:
    """Say that bob is the user, and enqueue another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    look.delay(f"{label}.child")


@app.task(throws=(KeyError,))
def expected(label: str) -> None:
    """Fail in a way that is not an error."""
    note(label)
    raise KeyError(label)


@app.task(bind=True)
def replace(self: Any, label: str) -> None:
    """Have another task in its own place."""
    note(label)
    raise self.replace(look.s(f"{label}.child"))


@app.task(bind=True)
def killed(self: Any, label: str) -> None:
    """Note the user, and kill the own process at the first attempt."""
    note(label)
    if not self.request.delivery_info.get("redelivered"):
        os.kill(os.getpid(), signal.SIGKILL)


@app.task
def endless(label: str) -> None:
    """Note the user, and at the first attempt wait for as long as the worker lives."""
    with store() as client:
        is_first = client.set(f"tried:{label}", 1, nx=True)
    note(label)
    while is_first:
        time.sleep(0.05)


@app.task(acks_late=False)
def lost(label: str) -> None:
    """Note the user, and kill the own process for good."""
    note(label)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, acks_late=True)
def put_back(self: Any, label: str) -> None:
    """Note the user, and be given up: refused, or ignored."""
    note(label)
    raise (Reject(label, requeue=False) if "refused" in label else Ignore(label))


@app.task
def leave(label: str) -> None:
    """Note the user, and end as a program does."""
    note(label)
    raise SystemExit(label)


@app.task
def canvas(label: str) -> None:
    """Enqueue a chain and a chord."""
    chain(look.si(f"{label}.1"), look.si(f"{label}.2")).delay()
    chord([look.si(f"{label}.3"), look.si(f"{label}.4")])(look.si(f"{label}.body"))


class Noted(Task):  # type: ignore[misc]
    """Notes the user in each of its handlers."""

    def on_retry(self, _exc: object, _id: object, args: Any, *_: Any) -> None:
        note(f"{args[0]}.retry")

    def on_failure(self, _exc: object, _id: object, args: Any, *_: Any) -> None:
        note(f"{args[0]}.failure")

    def after_return(self, _state: object, _value: object, _id: str, args: Any, *_: Any) -> None:
        note(f"{args[0]}.return")


@app.task(base=Noted, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def handled(label: str) -> None:
    """Fail at every attempt."""
    raise ValueError(label)


@app.task(soft_time_limit=1)
def soft(label: str) -> None:
    """Note the user, and wait for too long."""
    note(label)
    signal.pause()


@app.task(time_limit=1, acks_late=False)
def hard(label: str) -> None:
    """Note the user, and wait for too long, whatever the worker says."""
    note(label)
    while True:
        time.sleep(0.05)


@app.task
def on_error(request: Any, exc: BaseException, _traceback: object) -> None:
    """Note the user for the task that failed."""
    note(f"{re.sub('[0-9a-f-]{36}', 'ID', str(exc))}.errback")
    del request


@app.task
def on_error_by_id(label: str) -> None:
    """Note the user for the task that failed, in a task of its own."""
    note(f"{label}.errback")


@signals.worker_ready.connect
def say_ready(**_: Any) -> None:
    """Say so where the test reads it."""
    print("celery-ready", flush=True)


@signals.task_postrun.connect
def after(args: Any, **_: Any) -> None:
    """Note the user when a task is over."""
    if args and "postrun" in str(args[0]):
        note(f"{args[0]}.after")
