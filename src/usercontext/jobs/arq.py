"""arq: the user of a job, which travels beside its arguments in the serialised message."""

from __future__ import annotations

import pickle
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Unpack
from uuid import uuid4
from weakref import WeakSet

from arq.connections import ArqRedis
from arq.worker import Retry, RetryJob, Worker, func

from usercontext.core.record import enter
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import aflush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# The mark of the job that is being enqueued here.
_marking: ContextVar[str | None] = ContextVar("usercontext.arq.marking", default=None)
# Mark and name of the message that was read here last. Reading one names nobody: a request may
# look at somebody's job.
_read: ContextVar[tuple[object, str]] = ContextVar("usercontext.arq.read", default=(None, ""))
_running: ContextVar[RunningJob | None] = ContextVar("usercontext.arq.running", default=None)

_HOOKS: Final = ("on_startup", "on_shutdown", "on_job_start", "after_job_end")
_enabled: WeakSet[Any] = WeakSet()


class UserContext:
    """Make whoever enqueues an arq job its user while it runs.

    `UserContext(WorkerSettings)` where the workers' settings are, and `UserContext(pool)` behind
    `pool = await create_pool(...)` where jobs are enqueued. The mark travels in the serialised
    message, beside the arguments; retries keep it, and what a job enqueues with `ctx["redis"]`
    has the user that the job has then. Cron jobs have nobody.

    Args:
        target: the class or dictionary of a worker's settings, a `Worker`, or a pool.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the target has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, target: Any, **options: Unpack[ContextOptions]) -> None:
        _check(target)
        self._jobs = JobContext("arq", options)
        if isinstance(target, ArqRedis):
            self._carry(target)
        else:
            self._work(_Settings(target))

    # --- where a job is enqueued ----------------------------------------------------------

    def _carry(self, pool: ArqRedis) -> None:
        """Have a pool mark what it enqueues."""
        enqueue = pool.enqueue_job

        @wraps(enqueue)
        async def enqueue_job(
            function: str, *args: Any, _job_id: str | None = None, **options: Any
        ) -> Any:
            job_id = _job_id or uuid4().hex
            token = _marking.set(await self._jobs.mark_async(function, job_id))
            try:
                return await enqueue(function, *args, _job_id=job_id, **options)
            finally:
                _marking.reset(token)

        pool.enqueue_job = enqueue_job
        pool.job_serializer = _serializer(pool.job_serializer or pickle.dumps)
        _enabled.add(pool)

    # --- where it runs --------------------------------------------------------------------

    def _work(self, settings: _Settings) -> None:
        """Have a worker run its jobs as whoever enqueued them."""
        settings["job_serializer"] = _serializer(settings["job_serializer"] or pickle.dumps)
        settings["job_deserializer"] = _deserializer(settings["job_deserializer"] or pickle.loads)
        settings.wrap_functions()
        for name, own in zip(
            _HOOKS, (self._start, self._stop, self._begin, self._end), strict=True
        ):
            settings[name] = _joined(own, settings[name], is_first=name != "after_job_end")

    async def _start(self, ctx: dict[Any, Any]) -> None:
        # Cron jobs are enqueued in the context of whoever has started the worker.
        enter(None)
        pool = ctx["redis"]
        if pool not in _enabled:
            pool.job_serializer = None if _is_ours(pool.job_serializer) else pool.job_serializer
            self._carry(pool)

    async def _stop(self, ctx: dict[Any, Any]) -> None:  # noqa: ARG002
        await aflush()

    async def _begin(self, ctx: dict[Any, Any]) -> None:
        text, name = _read.get()
        _read.set((None, ""))
        running = self._jobs.running(text, name, ctx["job_id"], ctx, is_error=_is_error)
        running.begin()
        _running.set(running)

    async def _end(self, ctx: dict[Any, Any]) -> None:  # noqa: ARG002
        running = _running.get()
        if running is not None:
            _running.set(None)
            running.end()


class _Settings:
    """Settings of a worker, whichever of the three forms they have."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getitem__(self, name: str) -> Any:
        if isinstance(self._target, dict):
            return self._target.get(name)
        return vars(self._target).get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(self._target, dict):
            self._target[name] = value
        else:
            setattr(self._target, name, value)

    def wrap_functions(self) -> None:
        """Have the functions report the errors that leave them."""
        if isinstance(self._target, Worker):
            functions = self._target.functions
            functions.update({name: _reporting(one) for name, one in functions.items()})
            return
        self["functions"] = [_reporting(func(one)) for one in self["functions"] or ()]
        self["cron_jobs"] = [_reporting(one) for one in self["cron_jobs"] or ()]


def _check(target: object) -> None:
    is_settings = isinstance(target, dict) and "functions" in target
    if isinstance(target, type):
        is_settings = "functions" in vars(target) or "cron_jobs" in vars(target)
    if not is_settings and not isinstance(target, ArqRedis | Worker):
        raise ConfigurationError(
            "UserContext takes the settings of a worker or a pool, not "
            f"{target.__name__ if isinstance(target, type) else described(target)}: write "
            "UserContext(WorkerSettings) for the workers, and UserContext(pool) behind "
            "`pool = await create_pool(...)`"
        )
    has_one = (
        target in _enabled
        if isinstance(target, ArqRedis)
        else _is_ours(_Settings(target)["job_deserializer"])
    )
    if has_one:
        raise ConfigurationError(
            "arq has a UserContext here already: keep one, and give it all options"
        )


def _is_ours(function: object) -> bool:
    return getattr(function, "usercontext", False) is True


def _serializer(serialize: Callable[[dict[str, Any]], bytes]) -> Callable[[dict[str, Any]], bytes]:
    if _is_ours(serialize):
        return serialize

    def serialize_marked(data: dict[str, Any]) -> bytes:
        mark = _marking.get()
        if "r" in data:
            _report_result(data)
        elif mark is not None:
            data = {**data, KEY: mark}
        return serialize(data)

    serialize_marked.usercontext = True  # type: ignore[attr-defined]
    return serialize_marked


def _report_result(data: dict[str, Any]) -> None:
    """Report what ended a job and never was in it: that it took too long."""
    running, result = _running.get(), data["r"]
    if running is not None and not data.get("s") and isinstance(result, TimeoutError):
        running.fail(result)


def _deserializer(
    deserialize: Callable[[bytes], dict[str, Any]],
) -> Callable[[bytes], dict[str, Any]]:
    def deserialize_marked(message: bytes) -> dict[str, Any]:
        data = deserialize(message)
        _read.set((data.get(KEY), str(data.get("f"))))
        return data

    deserialize_marked.usercontext = True  # type: ignore[attr-defined]
    return deserialize_marked


def _reporting(function: Any) -> Any:
    """Return a function or cron job of arq whose errors are reported."""
    coroutine = function.coroutine

    @wraps(coroutine)
    async def call(*args: Any, **options: Any) -> Any:
        try:
            return await coroutine(*args, **options)
        except Exception as error:
            running = _running.get()
            if running is not None:
                await running.fail_async(error)
            raise

    return replace(function, coroutine=call)


def _is_error(error: BaseException) -> bool:
    """Tell errors from what a job tells its worker."""
    return isinstance(error, Exception) and not isinstance(error, Retry | RetryJob)


def _joined(
    own: Callable[[dict[Any, Any]], Awaitable[None]], theirs: Any, *, is_first: bool
) -> Callable[[dict[Any, Any]], Awaitable[None]]:
    """Return a hook that runs ours and the app's."""

    async def hook(ctx: dict[Any, Any]) -> None:
        if is_first:
            await own(ctx)
        try:
            if theirs is not None:
                await theirs(ctx)
        finally:
            if not is_first:
                await own(ctx)

    return hook
