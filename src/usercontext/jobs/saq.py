"""SAQ: the user of a job, which travels in its `meta`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from saq import Queue, Worker
from saq.job import Status

from usercontext.core.record import enter
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import aflush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from saq import Job

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

_running: ContextVar[RunningJob | None] = ContextVar("usercontext.saq", default=None)
_enabled: WeakKeyDictionary[Any, UserContext] = WeakKeyDictionary()


class UserContext:
    """Make whoever enqueues an SAQ job its user while it runs.

    `UserContext(settings)` where the workers' settings are, which takes their queue with them,
    and `UserContext(queue)` where another process enqueues jobs. The mark travels in the job's
    `meta`, which retries keep; what a job enqueues has the user that the job has then. Cron jobs
    have nobody. An attempt that is tried again is not reported.

    Args:
        target: the dictionary of a worker's settings, a `Worker`, or a queue.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the target has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, target: Any, **options: Unpack[ContextOptions]) -> None:
        queue = _checked_queue(target)
        self._jobs = JobContext("saq", options)
        if queue not in _enabled:
            queue.register_before_enqueue(self._mark)
            _enabled[queue] = self
        if isinstance(target, Worker):
            hooks = {name: getattr(target, name) for name in self._hooks()}
            for name, functions in self._joined(hooks).items():
                setattr(target, name, functions)
            _enabled[target] = self
        elif isinstance(target, dict):
            target.update(self._joined(target))

    def _hooks(self) -> dict[str, Any]:
        return {
            "startup": self._start,
            "shutdown": self._stop,
            "before_process": self._begin,
            "after_process": self._end,
        }

    def _joined(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """Return our hooks around the app's."""
        joined = {}
        for name, hook in self._hooks().items():
            found = theirs.get(name) or ()
            others = [found] if callable(found) else list(found)
            joined[name] = [*others, hook] if name == "after_process" else [hook, *others]
        return joined

    async def _mark(self, job: Job) -> None:
        found = job.meta.get(KEY)
        mark = await self._jobs.mark_async(job.function, job.id, found)
        if mark is not None:
            job.meta = {**job.meta, KEY: mark}
        elif found is not None:
            job.meta = {name: value for name, value in job.meta.items() if name != KEY}

    async def _start(self, ctx: Any) -> None:  # noqa: ARG002
        # Cron jobs are enqueued in the context of whoever has started the worker.
        enter(None)

    async def _stop(self, ctx: Any) -> None:  # noqa: ARG002
        await aflush()

    async def _begin(self, ctx: Any) -> None:
        job = ctx["job"]
        running = self._jobs.running(job.meta.get(KEY), job.function, job.id, job)
        running.begin()
        _running.set(running)

    async def _end(self, ctx: Any) -> None:
        running = _running.get()
        if running is None:
            return
        _running.set(None)
        try:
            error = ctx.get("exception")
            if error is not None and ctx["job"].status == Status.FAILED:
                await running.fail_async(error)
        finally:
            running.end()


def _checked_queue(target: Any) -> Any:
    queue = target.get("queue") if isinstance(target, dict) else getattr(target, "queue", target)
    if not isinstance(queue, Queue):
        raise ConfigurationError(
            "UserContext takes the settings of a worker or a queue, not "
            f"{described(target)}: write UserContext(settings), where settings = "
            '{"queue": queue, "functions": [...]}, or UserContext(queue)'
        )
    hooks = target.get("before_process") if isinstance(target, dict) else None
    has_one = any(isinstance(getattr(one, "__self__", None), UserContext) for one in _listed(hooks))
    if has_one or (not isinstance(target, dict) and target in _enabled):
        raise ConfigurationError(
            "SAQ has a UserContext here already: keep one, and give it all options"
        )
    return queue


def _listed(hooks: Any) -> list[Any]:
    return [hooks] if callable(hooks) else list(hooks or ())
