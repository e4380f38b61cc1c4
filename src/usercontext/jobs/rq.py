"""RQ: the user of a job, in every kind of worker, through retries, callbacks and killed horses."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Unpack

import rq.registry
from rq import Queue, get_current_job
from rq.cron import CronJob
from rq.exceptions import AbandonedJobError
from rq.job import Job as RqJob
from rq.worker import BaseWorker

from usercontext.core.record import enter, leave
from usercontext.diagnostics import harmless
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "WorkHorseKilledError"]

# Where a run is kept on RQ's own object of the job.
_RUNNING: Final = "_usercontext_running"
# What enqueues or runs jobs by a schedule, in the context of whoever has started it.
_FROM_NOBODY: Final = ((BaseWorker, "work"), (CronJob, "enqueue"))


class WorkHorseKilledError(Exception):
    """The process that ran a job was killed; reported by the worker, with the job's user."""


class UserContext:
    """Make whoever enqueues an RQ job its user while it runs.

    `UserContext()`, once in every process: where jobs are enqueued, and in the worker's settings
    (`rq worker -c settings`), behind `sentry_sdk.init()` if that is called there. It applies to
    all queues and workers of the process. The mark travels in the job's `meta`; retries, repeats
    and a requeue keep it, and a dependent has the user who enqueued the dependent. What RQ's
    scheduler and cron enqueue by themselves has nobody. An attempt that is tried again is not
    reported.

    Args:
        target: a queue or worker, for the reader's sake: what it belongs to is enabled anyway.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the process has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, target: object = None, **options: Unpack[ContextOptions]) -> None:
        _check(target)
        _check_unused(target, options)
        self._jobs = JobContext("rq", options)
        _installed.append((self, target))
        if len(_installed) == 1:
            self._install()

    def _install(self) -> None:
        _wrap(RqJob, "create", self._create)
        _wrap(Queue, "run_sync", self._run_sync)
        _wrap(Queue, "run_job", self._run_job)
        _wrap(BaseWorker, "perform_job", self._perform)
        _wrap(BaseWorker, "handle_exception", self._handle_exception)
        _wrap(BaseWorker, "handle_work_horse_killed", self._horse_killed)
        for name in ("success_callback", "failure_callback", "stopped_callback"):
            setattr(RqJob, name, property(self._callback(vars(RqJob)[name].fget)))
        if hasattr(rq.registry, "execute_failure_callback"):  # private: else they are not reported
            _wrap(rq.registry, "execute_failure_callback", self._abandoned)
        for owner, name in _FROM_NOBODY:
            _wrap(owner, name, _from_nobody)
        job = get_current_job()
        if job is not None and os.environ.get("RQ_JOB_ID") == job.id:
            # SpawnWorker imports the app for its job, and this process ends with it.
            self._begin(job)

    # --- where a job is enqueued ----------------------------------------------------------

    def _create(self, create: Callable[..., RqJob], *args: Any, **options: Any) -> RqJob:
        job = create(*args, **options)
        name, id_ = _name_of(job), job.id
        # Many jobs may share the caller's own dictionary.
        meta = {key: value for key, value in job.meta.items() if key != KEY}
        mark = self._jobs.mark(name, id_, job.meta.get(KEY))
        job.meta = meta if mark is None else {**meta, KEY: mark}
        return job

    # --- where it runs --------------------------------------------------------------------

    def _begin(self, job: RqJob) -> RunningJob:
        running = self._jobs.running(job.meta.get(KEY), _name_of(job), job.id, job)
        vars(job)[_RUNNING] = running
        running.begin()
        return running

    @contextmanager
    def _running(self, job: RqJob) -> Iterator[RunningJob]:
        running = self._begin(job)
        try:
            yield running
        finally:
            vars(job).pop(_RUNNING, None)
            running.end()

    def _inside(self, job: RqJob) -> AbstractContextManager[object]:
        """Return the scope of a job for what RQ does about it, before, after or instead of it."""
        return nullcontext() if _RUNNING in vars(job) else self._running(job)

    def _perform(
        self, perform: Callable[..., Any], worker: Any, job: RqJob, *args: Any, **options: Any
    ) -> Any:
        try:
            with self._running(job):
                return perform(worker, job, *args, **options)
        finally:
            _flush_horse(worker)

    def _run_sync(self, run: Callable[..., Any], queue: Queue, job: RqJob, *args: Any) -> Any:
        with self._running(job):
            return run(queue, job, *args)

    def _run_job(self, run: Callable[..., Any], queue: Queue, job: RqJob, *args: Any) -> Any:
        try:
            return run(queue, job, *args)
        except Exception as error:
            # It goes no further: the caller is told by the job's status alone.
            running: RunningJob | None = vars(job).get(_RUNNING)
            if running is not None:
                running.fail(error)
            raise

    def _handle_exception(
        self, handle: Callable[..., Any], worker: Any, job: RqJob, *exc_info: Any
    ) -> Any:
        with harmless("rq report", "the error of a job of rq was not reported"):
            running: RunningJob | None = vars(job).get(_RUNNING)
            if running is not None and exc_info and not _is_tried_again(job):
                running.fail(exc_info[1])
                _flush_horse(worker)
        return handle(worker, job, *exc_info)

    def _horse_killed(self, handle: Callable[..., Any], worker: Any, job: RqJob, *args: Any) -> Any:
        with self._running(job) as running:
            if not _is_tried_again(job):
                running.fail(WorkHorseKilledError("the process that ran a job was killed"))
            return handle(worker, job, *args)

    def _abandoned(self, call: Callable[..., Any], job: RqJob, *args: Any) -> Any:
        """Report a job whose worker is gone too, where it is found."""
        with self._running(job) as running:
            if not _is_tried_again(job):
                running.fail(AbandonedJobError("the worker that ran a job is gone"))
            return call(job, *args)

    def _callback(self, get: Callable[[RqJob], Any]) -> Callable[[RqJob], Any]:
        def get_callback(job: RqJob) -> Any:
            callback = get(job)
            if callback is None:
                return None

            @wraps(callback)
            def call(job: RqJob, *args: Any) -> Any:
                with self._inside(job):
                    return callback(job, *args)

            return call

        return get_callback


_installed: list[tuple[UserContext, object]] = []


def _check(target: object) -> None:
    if target is not None and not isinstance(target, Queue | BaseWorker):
        raise ConfigurationError(
            f"UserContext takes no {described(target)}: write UserContext(), once in every "
            "process that enqueues jobs or runs them"
        )


def _check_unused(target: object, options: ContextOptions) -> None:
    if not _installed:
        return
    if options or target is None or any(target is known for _, known in _installed):
        raise ConfigurationError(
            "RQ has a UserContext in this process already: keep one, and give it all options"
        )


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Have a method called by way of ours, which is given it as its first argument."""
    function = getattr(owner, name)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return around(function, *args, **options)

    is_bound = hasattr(function, "__self__")
    setattr(owner, name, staticmethod(call) if is_bound else call)


def _from_nobody(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run what goes by a schedule without the user of whoever has started it."""
    token = enter(None)
    try:
        return function(*args, **options)
    finally:
        leave(token)


def _name_of(job: RqJob) -> str:
    try:
        return str(job.func_name)
    except Exception:  # noqa: BLE001 - the job's arguments cannot be read, and it will fail
        return ""


def _is_tried_again(job: RqJob) -> bool:
    return bool(getattr(job, "retries_left", None))


def _flush_horse(worker: Any) -> None:
    # A horse ends by `os._exit`: nothing is sent after that.
    if worker.is_horse:
        flush()
