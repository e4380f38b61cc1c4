"""What is tried on every queue and kind of worker, and which those are.

A test that shows a scenario says so: `@pytest.mark.scenario("retried")`. `tests.jobs.table` reads
what came of them from the files that pytest writes, and puts it into a page.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

__all__ = ["PAIRS", "QUEUES", "SCENARIOS", "Queue", "kinds", "properties_of"]

#: By their names in the table's head: the fact that a test shows.
SCENARIOS = {
    "ada": "A job that a request of ada's enqueues is ada's.",
    "bob": "A job that a request of bob's enqueues is bob's.",
    "nobody": "A job that a request of nobody's enqueues is nobody's, behind others of theirs.",
    "schedule": "A job that a schedule enqueues is nobody's, though the worker was started where "
    "somebody is the user.",
    "a job": "What a job enqueues is of the job's user.",
    "use_user": "A job enqueued inside of `use_user` is of the user of that block.",
    "reads": "The job reads its user, by `get_user()` and by a peek.",
    "logs": "A line that the job logs names the user.",
    "reports": "A message that the job reports names the user.",
    "fails": "The error that ends the job is reported once, with its user; the next job is "
    "nobody's.",
    "retried": "Each attempt of a job is of whoever enqueued it.",
    "times out": "A job that takes too long is reported with its user, once.",
    "killed": "The process that runs the job is killed: where the job is delivered again, or "
    "reported as lost, that names its user.",
    "sync, async": "Functions and coroutines, each in turn with a user and with nobody.",
}


@dataclass(frozen=True)
class Queue:
    """A queue: the package whose version counts, and its kinds of workers.

    Attributes:
        package: its name on PyPI.
        kinds: the pools, or kinds of workers and backends; the first alone in a short run.
        apart: those that are tried by classes of their own.
        cannot: why scenarios are left out, whatever the kind of worker.
        cannot_apart: likewise, where the job is run by whoever enqueues it.
        notes: what is to be known of scenarios that are tried.
    """

    package: str
    kinds: tuple[str, ...]
    apart: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    cannot_apart: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def reason(self, kind: str, scenario: str) -> str:
        """Return why a scenario is left out, or an empty text."""
        apart = self.cannot_apart.get(scenario, "") if kind in self.apart else ""
        return apart or self.cannot.get(scenario, "")


_CALLER = dict.fromkeys(
    ("schedule", "times out", "killed"),
    "The job is run by whoever enqueues it: there is no worker.",
)
_FUNCTIONS = {"sync, async": "It runs functions alone."}
_COROUTINES = {"sync, async": "It runs coroutines alone."}

QUEUES = {
    "celery": Queue(
        "celery",
        ("prefork", "threads", "gevent", "solo"),
        ("eager",),
        cannot_apart=_CALLER,
        notes=_FUNCTIONS,
    ),
    "rq": Queue(
        "rq",
        ("Worker", "SimpleWorker", "SpawnWorker"),
        ("synchronous",),
        cannot_apart={**_CALLER, "retried": "RQ runs a synchronous job once."},
        notes={
            "killed": "Nothing is delivered again by itself: the lost job is reported.",
        },
    ),
    "dramatiq": Queue(
        "dramatiq",
        ("threads", "gevent"),
        cannot={"schedule": "Dramatiq has no schedules of its own."},
    ),
    "arq": Queue("arq", ("asyncio",), notes=_COROUTINES),
    "taskiq": Queue("taskiq", ("threads", "processes")),
    "huey": Queue(
        "huey",
        ("thread", "process", "greenlet"),
        ("immediate",),
        cannot_apart=_CALLER,
        notes={
            **_FUNCTIONS,
            "killed": "Huey loses what a killed consumer had taken; the next task is its own "
            "user's.",
        },
    ),
    "procrastinate": Queue(
        "procrastinate",
        ("asyncio",),
        cannot={"times out": "Procrastinate has no time limit."},
    ),
    "saq": Queue("saq", ("asyncio",)),
    "django_tasks": Queue(
        "django",
        ("database",),
        ("immediate", "rq Worker", "rq SimpleWorker"),
        cannot={
            "schedule": "Django's tasks have no schedules.",
            "retried": "Django's tasks are run once.",
            "times out": "Django's tasks have no time limit.",
        },
        cannot_apart={"killed": "A caller has no worker; RQ's workers have rows of their own."},
        notes={"killed": "The row is set back by hand: nothing is delivered again by itself."},
    ),
    "apscheduler": Queue(
        "apscheduler",
        ("threads", "processes", "redis"),
        ("asyncio",),
        cannot={
            "retried": "APScheduler runs a job once.",
            "times out": "APScheduler has no time limit.",
            "killed": "APScheduler forgets a job as it hands it to a worker.",
        },
    ),
}

#: Every row of the table.
PAIRS = tuple((name, kind) for name, one in QUEUES.items() for kind in (*one.kinds, *one.apart))


def kinds(queue: str) -> tuple[str, ...]:
    """Return which kinds of worker are tested: all of them, or the first in a short run."""
    found = QUEUES[queue].kinds
    return found[:1] if os.environ.get("JOBS_SHORT") else found


def properties_of(item: pytest.Item) -> Iterator[tuple[str, object]]:
    """Return what a file of pytest is to say of a test: what it shows, and of which worker."""
    names = [name for mark in item.iter_markers("scenario") for name in mark.args]
    if not names:
        return
    queue = item.path.stem.removeprefix("test_")
    kind = _kind_of(item, queue)
    assert not set(names) - SCENARIOS.keys(), f"{item.nodeid} shows what is no scenario"
    assert (queue, kind) in PAIRS, f"{item.nodeid} is of no kind of worker"
    yield "worker", f"{queue} {metadata.version(QUEUES[queue].package)} {kind}"
    yield from (("scenario", name) for name in names)


def _kind_of(item: pytest.Item, queue: str) -> str:
    """Return the kind of a test's class, that among its parameters, or the queue's first."""
    own = getattr(getattr(item, "cls", None), "kind", None)
    params = getattr(item, "callspec", None)
    values = [] if params is None else params.params.values()
    known = (*QUEUES[queue].kinds, *(one.rpartition(" ")[2] for one in QUEUES[queue].apart))
    named = [one for one in values if isinstance(one, str) and one in known]
    return (own or "{}").format(named[0] if named else QUEUES[queue].kinds[0])
