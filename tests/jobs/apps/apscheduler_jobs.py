"""Jobs of APScheduler; a process of a pool imports them, and nothing else of the app."""

from __future__ import annotations

import os
from typing import Any

import usercontext
from tests.jobs.notes import configure, note

if "JOBS_REDIS" in os.environ:
    configure()


#: What jobs add others to, in the process that runs it.
scheduler: Any = None


def look(label: str) -> None:
    """Note the user, and become somebody else."""
    note(label)
    usercontext.set_user({"id": "changed"})


async def alook(label: str) -> None:
    """Note the user."""
    note(label)
    usercontext.set_user({"id": "changed"})


def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


async def afail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


def hand_on(label: str) -> None:
    """Note the user, and add another job."""
    note(label)
    scheduler.add_job(look, args=(f"{label}.child",))


def become(label: str) -> None:
    """Say that bob is the user, and add another job."""
    usercontext.set_user({"id": "bob"})
    note(label)
    scheduler.add_job(look, args=(f"{label}.child",))
