"""Huey: the user of a task, in threads, processes and greenlets, through retries and pipelines."""

from __future__ import annotations

from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import WeakSet

from huey.api import Huey, PeriodicTask
from huey.exceptions import (
    CancelExecution,
    RateLimitExceeded,
    RetryTask,
    TaskLockedException,
)
from huey.serializer import Serializer, SignedSerializer

from usercontext.core.record import current, enter
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.jobs.base import JobContext, RunningJob, described

if TYPE_CHECKING:
    from collections.abc import Callable

    from huey.api import Task

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# Huey has no metadata, and a key among the arguments would fail on a consumer that does not take
# it out. What stands behind the end of a pickle is ignored by whoever does not know it; a pickle
# itself ends with a dot.
_END: Final = b"usercontext\n"
_MARK: Final = "_usercontext_mark"
_RUNNING: Final = "_usercontext_running"
_CALLER: Final = "_usercontext_caller"
_TOLD: Final = (CancelExecution, RateLimitExceeded, RetryTask, TaskLockedException)

# The marks of the task that is being serialised here, and of the one read here last.
_writing: ContextVar[str | None] = ContextVar("usercontext.huey.writing", default=None)
_read: ContextVar[str | None] = ContextVar("usercontext.huey.read", default=None)

_enabled: WeakSet[Huey] = WeakSet()


class UserContext:
    """Make whoever enqueues a Huey task its user while it runs.

    `UserContext(huey)`, where it is made: both who enqueues and the consumer import it from
    there. The mark travels behind the pickled message, where a consumer without the extension
    ignores it; retries keep it, and pipelines, error handlers and what a task enqueues have the
    user that the task has then. Periodic tasks have nobody. An attempt that is tried again is
    not reported.

    Args:
        huey: the Huey instance, with a serializer of Huey's own.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the instance has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, huey: Huey, **options: Unpack[ContextOptions]) -> None:
        _check(huey)
        self._jobs = JobContext("huey", options)
        self._huey = huey
        _wrap_serializer(huey.serializer)
        _wrap(huey, "serialize_task", self._serialize)
        _wrap(huey, "deserialize_task", self._deserialize)
        _wrap(huey, "execute", self._execute)
        huey.post_execute("usercontext")(self._after)
        huey.on_startup("usercontext")(_start_from_nobody)
        huey.on_shutdown("usercontext")(flush)
        _enabled.add(huey)

    # --- where a task is enqueued ---------------------------------------------------------

    def _serialize(self, serialize: Callable[[Task], bytes], task: Task) -> bytes:
        if isinstance(task, PeriodicTask):
            mark = None
        elif _MARK in vars(task):
            # It has been read from the queue: for a retry, or because its time has come.
            mark = vars(task)[_MARK]
        else:
            mark = self._jobs.mark(task.name, task.id)
        token = _writing.set(mark)
        try:
            return serialize(task)
        finally:
            _writing.reset(token)

    def _deserialize(self, deserialize: Callable[[bytes], Task], data: bytes) -> Task:
        token = _read.set(None)
        try:
            task = deserialize(data)
            vars(task)[_MARK] = _read.get()
        finally:
            _read.reset(token)
        return task

    # --- where it runs --------------------------------------------------------------------

    def _execute(self, execute: Callable[..., Any], task: Task, *args: Any, **options: Any) -> Any:
        if self._huey.immediate and _MARK not in vars(task):
            return self._execute_here(execute, task, *args, **options)
        mark = vars(task).get(_MARK)
        running = self._jobs.running(mark, task.name, task.id, task, is_error=_is_error)
        vars(task)[_RUNNING] = running
        with running:
            return execute(task, *args, **options)

    def _execute_here(
        self, execute: Callable[..., Any], task: Task, *args: Any, **options: Any
    ) -> Any:
        """Run a task as its caller, who is the user of a retry inside of a failed attempt too."""
        caller = vars(task).setdefault(_CALLER, current())
        running = vars(task)[_RUNNING] = self._jobs.running_here(caller)
        try:
            with running:
                return execute(task, *args, **options)
        finally:
            vars(task).pop(_CALLER, None)

    def _after(self, task: Task, _value: object, error: BaseException | None) -> None:
        running: RunningJob | None = vars(task).pop(_RUNNING, None)
        if running is not None and error is not None and not task.retries:
            running.fail(error)


def _check(huey: Any) -> None:
    if not isinstance(huey, Huey):
        raise ConfigurationError(
            f"UserContext takes a Huey instance, not {described(huey)}: write "
            "UserContext(huey), where huey = RedisHuey(...)"
        )
    if huey in _enabled:
        raise ConfigurationError(
            "this Huey has a UserContext already: keep one, and give it all options"
        )
    if type(huey.serializer)._serialize not in (Serializer._serialize, SignedSerializer._serialize):
        raise ConfigurationError(
            f"UserContext cannot write behind what {type(huey.serializer).__name__} serialises: "
            "give Huey its own Serializer or SignedSerializer, or a subclass that leaves "
            "_serialize() as it is"
        )


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Have a method of an object called by way of ours, which is given it as its first argument."""
    method = getattr(owner, name)

    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        return around(method, *args, **options)

    setattr(owner, name, call)


def _wrap_serializer(serializer: Any) -> None:
    # What a SignedSerializer signs has the mark in it: behind its signature it would be refused.
    is_signed = isinstance(serializer, SignedSerializer)
    write, read = ("_sign", "_unsign") if is_signed else ("_serialize", "_deserialize")
    _wrap(serializer, write, _sign_with_mark if is_signed else _serialize_with_mark)
    _wrap(serializer, read, _unsign_with_mark if is_signed else _deserialize_with_mark)


def _with_mark(data: bytes) -> bytes:
    mark = _writing.get()
    if mark is None:
        return data
    text = mark.encode("ascii")
    return data + text + len(text).to_bytes(2, "big") + _END


def _read_mark(data: bytes) -> bytes:
    if data.endswith(_END):
        end = len(data) - len(_END) - 2
        length = int.from_bytes(data[end : end + 2], "big")
        _read.set(data[end - length : end].decode("ascii", "replace"))
    return data


def _serialize_with_mark(serialize: Callable[[Any], bytes], message: Any) -> bytes:
    return _with_mark(serialize(message))


def _deserialize_with_mark(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    return deserialize(_read_mark(data))


def _sign_with_mark(sign: Callable[[bytes], bytes], message: bytes) -> bytes:
    return sign(_with_mark(message))


def _unsign_with_mark(unsign: Callable[[bytes], bytes], signed: bytes) -> bytes:
    return _read_mark(unsign(signed))


def _is_error(error: BaseException) -> bool:
    """Tell errors from what a task tells its consumer."""
    return isinstance(error, Exception) and not isinstance(error, _TOLD)


def _start_from_nobody() -> None:
    """Leave behind the user of whoever has started this consumer."""
    enter(None)
