"""Jobs of APScheduler; a process of a pool imports them, and nothing else of the app."""

from __future__ import annotations

import os

import usercontext
from tests.jobs.notes import configure, note

if "JOBS_REDIS" in os.environ:
    configure()


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
