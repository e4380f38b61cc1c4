"""Procrastinate: the user of a job, in coroutines and threads."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Unpack
from uuid import uuid4
from weakref import WeakSet

from procrastinate import App
from procrastinate.exceptions import JobAborted

from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import aflush
from usercontext.jobs.base import JobContext, described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from procrastinate.job_context import JobContext as Running
    from procrastinate.jobs import Job
    from procrastinate.worker import Worker

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# A job's row has no column for metadata, and a key among the arguments fails on a worker that
# does not take it out. A lock that no other job has does nothing, so a job without one has the
# mark there.
_PREFIX: Final = "usercontext:"
_PLACES: Final = ("queueing_lock", "lock")

_enabled: WeakSet[App] = WeakSet()


class UserContext:
    """Make whoever defers a job of a Procrastinate app its user while it runs.

    `UserContext(app)`, where the app is made: both who defers and the workers import it from
    there. The mark travels in the job's `queueing_lock`, or in its `lock` where the app needs
    the first; a job that needs both has nobody. Retries keep it; what a job defers has the user
    that the job has then. Periodic tasks have nobody. An attempt that is tried again is not
    reported.

    Args:
        app: the Procrastinate app.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the app has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: App, **options: Unpack[ContextOptions]) -> None:
        _check(app)
        self._jobs = JobContext("procrastinate", options)
        self._wrap_manager(app.job_manager)
        self._wrap_worker(app)
        _enabled.add(app)

    # --- where a job is deferred ----------------------------------------------------------

    def _wrap_manager(self, manager: Any) -> None:
        defer, defer_async = manager.batch_defer_jobs, manager.batch_defer_jobs_async

        @wraps(defer)
        def batch_defer_jobs(jobs: list[Job], *args: Any, **options: Any) -> Any:
            marked = [_with_mark(job, *self._marked(job)) for job in jobs]
            return defer(marked, *args, **options)

        @wraps(defer_async)
        async def batch_defer_jobs_async(jobs: list[Job], *args: Any, **options: Any) -> Any:
            marked = []
            for job in jobs:
                nonce = uuid4().hex
                mark = await self._jobs.mark_async(job.task_name, nonce)
                marked.append(_with_mark(job, nonce, mark))
            return await defer_async(marked, *args, **options)

        manager.batch_defer_jobs = batch_defer_jobs
        manager.batch_defer_jobs_async = batch_defer_jobs_async

    def _marked(self, job: Job) -> tuple[str, str | None]:
        nonce = uuid4().hex
        return nonce, self._jobs.mark(job.task_name, nonce)

    # --- where it runs --------------------------------------------------------------------

    def _wrap_worker(self, app: App) -> None:
        make = app._worker

        @wraps(make)
        def make_worker(**options: Any) -> Worker:
            worker = make(**options)
            # Outermost: the app's own middleware sees the user.
            worker.worker_middleware = [self._run, *worker.worker_middleware]
            return worker

        app._worker = make_worker

    async def _run(
        self,
        call_next: Callable[[], Awaitable[Any]],
        context: Running,
        worker: Worker,  # noqa: ARG002
    ) -> Any:
        job = context.job
        nonce, text = _mark_of(job)
        running = self._jobs.running(
            text, job.task_name, nonce, context, is_error=lambda error: _is_error(context, error)
        )
        try:
            async with running:
                return await call_next()
        except Exception:
            # The worker may be stopped before anything else sends what was reported.
            await aflush()
            raise


def _check(app: object) -> None:
    if not isinstance(app, App):
        raise ConfigurationError(
            f"UserContext takes a Procrastinate app, not {described(app)}: write "
            "UserContext(app), where app = App(connector=...)"
        )
    if app in _enabled:
        raise ConfigurationError(
            "this Procrastinate app has a UserContext already: keep one, and give it all options"
        )


def _with_mark(job: Job, nonce: str, mark: str | None) -> Job:
    if mark is None:
        return job
    for place in _PLACES:
        if getattr(job, place) is None:
            return job.evolve(**{place: f"{_PREFIX}{nonce}:{mark}"})
    warn_once(
        "procrastinate: no place",
        "jobs of procrastinate that have both a lock and a queueing_lock run without a user: "
        "leave one of them out",
    )
    return job


def _mark_of(job: Job) -> tuple[str, str | None]:
    for place in _PLACES:
        found = getattr(job, place)
        if isinstance(found, str) and found.startswith(_PREFIX):
            nonce, _, mark = found.removeprefix(_PREFIX).partition(":")
            return nonce, mark
    return str(job.id), None


def _is_error(context: Running, error: BaseException) -> bool:
    """Tell errors from what ends a job on purpose, and from attempts that are tried again."""
    if not isinstance(error, Exception) or isinstance(error, JobAborted):
        return False
    return context.task.get_retry_exception(exception=error, job=context.job) is None
