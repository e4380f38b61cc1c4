"""The tasks."""

from __future__ import annotations

import os
import time

import usercontext
from tests.jobs.notes import note

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task

QUEUE = os.environ.get("JOBS_QUEUE", "default")
BACKEND = os.environ.get("JOBS_BACKEND", "default")


@task
def look(label: str) -> None:
    """Note the user."""
    note(label)


@task
async def alook(label: str) -> None:
    """Note the user."""
    note(label)


@task
def fail(label: str) -> None:
    """Note the user, and fail."""
    note(label)
    raise ValueError(label)


@task
def endless(label: str) -> None:
    """Note the user, and go on for as long as the worker lives."""
    note(label)
    while True:
        time.sleep(0.05)


@task
def hand_on(label: str) -> None:
    """Note the user, and enqueue another task."""
    note(label)
    look.using(queue_name=QUEUE, backend=BACKEND).enqueue(f"{label}.child")


@task
async def become(label: str) -> None:
    """Say that bob is the user, and enqueue another task."""
    usercontext.set_user({"id": "bob"})
    note(label)
    await look.using(queue_name=QUEUE, backend=BACKEND).aenqueue(f"{label}.child")
