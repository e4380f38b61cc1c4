"""APScheduler 3: the user of a job that is put off, and nobody for what comes again and again."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import WeakSet

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.executors import base as executors
from apscheduler.job import Job
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.date import DateTrigger

from usercontext.exceptions import ConfigurationError
from usercontext.jobs.base import KEY, JobContext, described

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.options import ContextOptions
    from usercontext.jobs.base import RunningJob

__all__ = ["UserContext"]

# Those that import their library when they are used.
_EXECUTORS: Final = ("asyncio", "debug", "gevent", "pool", "tornado", "twisted")

# A job has neither metadata nor a hash.
_marks: dict[int, str] = {}
_adding: ContextVar[UserContext | None] = ContextVar("usercontext.apscheduler", default=None)
_enabled: WeakSet[BaseScheduler] = WeakSet()
_jobs_here: list[JobContext] = []


class UserContext:
    """Make whoever adds a job of an APScheduler its user, if it is to run once.

    `UserContext(scheduler)`, where it is made. Left alone, async jobs run as whoever called
    `add_job` last, and others as what an earlier job left on their thread. With it a job with a
    date has the user who added it, which travels with the job through any job store; one that
    comes again and again, by an interval or cron, has nobody.

    Args:
        scheduler: the scheduler, of APScheduler 3.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the scheduler has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, scheduler: BaseScheduler, **options: Unpack[ContextOptions]) -> None:
        _check(scheduler)
        self._jobs = JobContext("apscheduler", options)
        add_job = scheduler.add_job

        @wraps(add_job)
        def add_marked(*args: Any, **job_options: Any) -> Any:
            token = _adding.set(self)
            try:
                return add_job(*args, **job_options)
            finally:
                _adding.reset(token)

        scheduler.add_job = add_marked
        _enabled.add(scheduler)
        _jobs_here.append(self._jobs)
        if len(_jobs_here) == 1:
            _wrap_executors()

    def mark(self, job: Job) -> None:
        """Mark a job that has just been made, if it is to run once."""
        if isinstance(job.trigger, DateTrigger):
            _keep(job, self._jobs.mark(str(job.func_ref), job.id))


def _check(scheduler: object) -> None:
    if not isinstance(scheduler, BaseScheduler):
        raise ConfigurationError(
            f"UserContext takes a scheduler of APScheduler 3, not {described(scheduler)}: "
            "write UserContext(scheduler), where scheduler = BackgroundScheduler()"
        )
    if scheduler in _enabled:
        raise ConfigurationError(
            "this scheduler has a UserContext already: keep one, and give it all options"
        )


def _keep(job: Job, mark: object) -> None:
    if isinstance(mark, str):
        _marks[id(job)] = mark
        weakref.finalize(job, _marks.pop, id(job), None)


def _wrap_jobs() -> None:
    """Have jobs marked as they are made, and their marks kept by job stores."""
    make, to_state, from_state = Job.__init__, Job.__getstate__, Job.__setstate__

    @wraps(make)
    def init(job: Job, *args: Any, **options: Any) -> None:
        make(job, *args, **options)
        adding = _adding.get()
        if adding is not None:
            adding.mark(job)

    @wraps(to_state)
    def getstate(job: Job) -> dict[str, Any]:
        mark = _marks.get(id(job))
        state: dict[str, Any] = to_state(job)
        return state if mark is None else {**state, KEY: mark}

    @wraps(from_state)
    def setstate(job: Job, state: dict[str, Any]) -> None:
        from_state(job, state)
        _keep(job, state.get(KEY))

    Job.__init__, Job.__getstate__, Job.__setstate__ = init, getstate, setstate


def _wrap_executors() -> None:
    """Have jobs run in a scope of their own, in whatever thread, task or process that is."""
    executors.run_job = _run_job
    executors.run_coroutine_job = _run_coroutine_job
    for name in _EXECUTORS:
        try:
            module = import_module(f"apscheduler.executors.{name}")
        except ImportError:
            continue
        for function in (_run_job, _run_coroutine_job):
            if hasattr(module, function.__name__[1:]):
                setattr(module, function.__name__[1:], function)


_plain_run_job: Callable[..., Any] = executors.run_job
_plain_run_coroutine_job: Callable[..., Any] = executors.run_coroutine_job


def _running(job: Job) -> RunningJob:
    if not _jobs_here:
        # In a process of a pool, which has imported no more than the job needs.
        _jobs_here.append(JobContext("apscheduler", {}))
    return _jobs_here[0].running(_marks.get(id(job)), str(job.func_ref), job.id, job)


def _run_job(job: Job, *args: Any) -> Any:
    with _running(job) as running:
        events = _plain_run_job(job, *args)
        for error in _errors_of(events):
            running.fail(error)
        return events


async def _run_coroutine_job(job: Job, *args: Any) -> Any:
    async with _running(job) as running:
        events = await _plain_run_coroutine_job(job, *args)
        for error in _errors_of(events):
            await running.fail_async(error)
        return events


def _errors_of(events: Any) -> list[BaseException]:
    return [event.exception for event in events if event.code == EVENT_JOB_ERROR]


# Now: a process of a pool imports this module, and no more, before it reads its first job.
_wrap_jobs()
