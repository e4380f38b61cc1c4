"""Taskiq: the user of a task, in coroutines, threads and processes."""

from __future__ import annotations

from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.kicker import AsyncKicker
from taskiq.receiver import Receiver

from usercontext.core.record import enter
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import aflush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# The runs that this task is inside of: one broker runs a task where it is sent.
_runs: ContextVar[tuple[RunningJob, ...]] = ContextVar("usercontext.taskiq", default=())
# The mark, name and id of the job that runs here, for the process that it is sent to.
_sent: ContextVar[tuple[object, str, str]] = ContextVar(
    "usercontext.taskiq.sent", default=(None, "", "")
)
_enabled: WeakKeyDictionary[AsyncBroker, JobContext] = WeakKeyDictionary()
# Of the broker whose worker this process belongs to.
_jobs_here: list[JobContext] = []


class UserContext:
    """Make whoever sends a task of a Taskiq broker its user while it runs.

    `UserContext(broker)`, behind the broker's other middlewares: senders, workers and the
    scheduler import it from there. The mark travels in the message's labels; retries keep it,
    and pipelines and what a task sends have the user that the task has then. A task of
    `schedule_by_time` has the user who scheduled it; one that comes again and again has nobody.
    An attempt that is tried again is not reported.

    Args:
        broker: the broker.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the broker has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, broker: AsyncBroker, **options: Unpack[ContextOptions]) -> None:
        _check(broker)
        jobs = JobContext("taskiq", options)
        carrying = _Carrying(jobs)
        carrying.set_broker(broker)
        # First of all, so that its end comes last: retries and pipelines are sent at the ends
        # of others.
        broker.middlewares.insert(0, carrying)
        _enabled[broker] = jobs
        _jobs_here.append(jobs)
        _wrap_once()


class _Carrying(TaskiqMiddleware):  # type: ignore[misc]
    """The hooks of a broker."""

    def __init__(self, jobs: JobContext) -> None:
        super().__init__()
        self._jobs = jobs

    async def startup(self) -> None:
        # A worker's and a scheduler's own tasks begin in the context of whoever started them.
        if self.broker.is_worker_process or self.broker.is_scheduler_process:
            enter(None)

    async def shutdown(self) -> None:
        await aflush()

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        found = message.labels.get(KEY)
        mark = await self._jobs.mark_async(message.task_name, message.task_id, found)
        _write(message, mark)
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        job = message.labels.get(KEY), message.task_name, message.task_id
        running = self._jobs.running(*job, message, is_error=_is_error)
        _runs.set((*_runs.get(), running))
        _sent.set(job)
        running.begin()
        return message

    async def on_error(
        self,
        message: TaskiqMessage,  # noqa: ARG002
        result: TaskiqResult[Any],
        exception: BaseException,
    ) -> None:
        runs = _runs.get()
        # A retry has put this in the error's place.
        if runs and not isinstance(result.error, NoResultError):
            await runs[-1].fail_async(exception)

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:  # noqa: ARG002
        if isinstance(result.error, NoResultError):
            _end()

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:  # noqa: ARG002
        _end()


def _end() -> None:
    runs = _runs.get()
    if runs:
        _runs.set(runs[:-1])
        _sent.set((None, "", ""))
        runs[-1].end()


def _write(message: TaskiqMessage, mark: str | None) -> None:
    """Put a mark into the labels of a message alone: all messages share the task's own."""
    labels = {name: value for name, value in message.labels.items() if name != KEY}
    message.labels = labels if mark is None else {**labels, KEY: mark}


def _check(broker: object) -> None:
    if not isinstance(broker, AsyncBroker):
        raise ConfigurationError(
            f"UserContext takes a broker of Taskiq, not {described(broker)}: write "
            "UserContext(broker), where broker = ListQueueBroker(url)"
        )
    if broker in _enabled:
        raise ConfigurationError(
            "this broker has a UserContext already: keep one, and give it all options"
        )


def _is_error(error: BaseException) -> bool:
    """Tell errors from what a task tells its worker."""
    return isinstance(error, Exception) and not isinstance(error, NoResultError)


# --- the doors beside the hooks ------------------------------------------------------------------


def _wrap_once() -> None:
    if len(_jobs_here) > 1:
        return
    schedule, receive = AsyncKicker.schedule_by_time, Receiver.__init__

    @wraps(schedule)
    async def schedule_by_time(kicker: AsyncKicker[Any, Any], *args: Any, **options: Any) -> Any:
        """Write the mark now: the hook is called in the scheduler, which knows nobody."""
        jobs = _enabled.get(kicker.broker)
        if jobs is not None:
            kicker.custom_task_id = kicker.custom_task_id or kicker.broker.id_generator()
            mark = await jobs.mark_async(kicker.task_name, kicker.custom_task_id)
            kicker.labels = kicker.labels if mark is None else {**kicker.labels, KEY: mark}
        return await schedule(kicker, *args, **options)

    @wraps(receive)
    def receive_init(receiver: Receiver, *args: Any, **options: Any) -> None:
        receive(receiver, *args, **options)
        if receiver.is_process_pool and receiver.broker in _enabled:
            receiver.executor = _Carried(receiver.executor)

    AsyncKicker.schedule_by_time = schedule_by_time
    Receiver.__init__ = receive_init


class _Carried:
    """A pool of processes that are told whose task they are given.

    They are forked in the middle of a task, and keep its user for all later ones.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._executor.submit(_run, *_sent.get(), function, *args)

    def shutdown(self, *args: Any, **options: Any) -> None:
        self._executor.shutdown(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def _run(text: object, name: str, id_: str, function: Callable[..., Any], *args: Any) -> Any:
    """Run a task's function in another process; its error is reported where it was sent from."""
    enter(None)
    with _jobs_here[0].running(text, name, id_, is_error=lambda _: False):
        return function(*args)
