"""Django's tasks: the user of a task, run at once or by the workers of django-tasks-db."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from django.db.models.signals import pre_save

from usercontext.core.record import JobRecord, current
from usercontext.diagnostics import harmless
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

try:
    from django.tasks.backends.immediate import ImmediateBackend
    from django.tasks.signals import task_finished, task_started
except ImportError:  # before Django 6
    from django_tasks.backends.immediate import ImmediateBackend
    from django_tasks.signals import task_finished, task_started

if TYPE_CHECKING:
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# The runs that this context is inside of: the immediate backend runs a task in a task.
_runs: ContextVar[tuple[RunningJob, ...]] = ContextVar("usercontext.django_tasks", default=())
_installed: list[UserContext] = []


class UserContext:
    """Make whoever enqueues a task of Django its user while it runs.

    `UserContext()`, once in every process, such as in the `ready()` of your app's
    configuration: in the web app and in the workers. With the immediate backend a task has the
    user of its caller. With django-tasks-db the mark travels in the row, beside the arguments.
    A task of another backend has the user that the extension for its queue gives it, such as
    `usercontext.jobs.rq`.

    Args:
        target: nothing.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the process has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, target: None = None, **options: Unpack[ContextOptions]) -> None:
        if target is not None:
            raise ConfigurationError(
                f"UserContext takes no {described(target)}: write UserContext(), once in "
                "every process that enqueues tasks or runs them"
            )
        if _installed:
            raise ConfigurationError(
                "Django's tasks have a UserContext in this process already: keep one, and give "
                "it all options"
            )
        self._jobs = JobContext("django_tasks", options)
        _installed.append(self)
        pre_save.connect(self._mark, weak=False)
        task_started.connect(self._begin, weak=False)
        task_finished.connect(self._end, weak=False)

    # --- where a task is enqueued ---------------------------------------------------------

    def _mark(self, sender: Any, instance: Any, **_: object) -> None:
        # `task_enqueued` comes after the row has been written.
        if sender.__name__ != "DBTaskResult" or not instance._state.adding:
            return
        data = instance.args_kwargs
        mark = self._jobs.mark(instance.task_path, _written(instance.id))
        if mark is not None and isinstance(data, dict):
            instance.args_kwargs = {**data, KEY: mark}

    # --- where it runs --------------------------------------------------------------------

    def _begin(self, sender: Any, task_result: Any, **_: object) -> None:
        with harmless("django_tasks", "a task of Django runs without its user"):
            # Workers send the signal from an object, the immediate backend from its class.
            backend = sender if isinstance(sender, type) else type(sender)
            running = self._run_of(backend, task_result)
            if running is not None:
                running.begin()
                _runs.set((*_runs.get(), running))

    def _run_of(self, backend: type, task_result: Any) -> RunningJob | None:
        if issubclass(backend, ImmediateBackend):
            return self._jobs.running_here(current())
        row = getattr(task_result, "db_result", None)
        here = current()
        if row is None and here is not None and isinstance(here.root, JobRecord):
            return None
        data = getattr(row, "args_kwargs", None)
        mark = data.get(KEY) if isinstance(data, dict) else None
        task = task_result.task
        return self._jobs.running(mark, task.module_path, _written(task_result.id), task_result)

    def _end(self, task_result: Any, **_: object) -> None:
        runs = _runs.get()
        here = current()
        if not runs or here is not runs[-1].record:
            return
        _runs.set(runs[:-1])
        error = sys.exc_info()[1]
        try:
            if error is not None and task_result.errors:
                runs[-1].fail(error)
        finally:
            runs[-1].end()
            if error is not None:
                flush()


def _written(id_: object) -> str:
    """Return an id as it is written on both sides: one has a UUID where the other has its text."""
    try:
        return UUID(str(id_)).hex
    except ValueError:
        return str(id_)
