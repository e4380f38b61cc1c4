"""Celery: the user of a task, in every pool, through retries, canvas and error callbacks."""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import WeakKeyDictionary

from celery import Celery, signals
from celery.backends.base import Backend
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded

from usercontext.core.record import current, enter
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from celery.app.task import Context as Request
    from celery.app.task import Task

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# Where a run is kept on the task's own request: it is there once for every run.
_RUNNING: Final = "_usercontext_running"
_MAX_REPORTED: Final = 1000

_contexts: WeakKeyDictionary[Celery, UserContext] = WeakKeyDictionary()
# The app that publishes a task here: two of them may have rules of their own.
_publishing: ContextVar[Celery | None] = ContextVar("usercontext.celery.publishing", default=None)


class UserContext:
    """Make whoever enqueues a task of a Celery app its user while it runs.

    `UserContext(app)`, where the app is made: both the processes that enqueue and the workers
    import it from there. The mark travels in the message's headers. It stays the same in a retry
    and a redelivery; the tasks that a task enqueues, its callbacks and the rest of its chain
    have the user that the task has then. What beat schedules has nobody.

    Args:
        app: the Celery app.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the app has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery, **options: Unpack[ContextOptions]) -> None:
        _check(app)
        self._app = app
        self._jobs = JobContext("celery", options)
        # The ids of tasks whose end was reported in place of the process that ran them.
        self._reported: dict[str, None] = {}
        # What such processes were given: before 5.7 the signal does not tell.
        self._lost: dict[str, Request] = {}
        self._note_publishing()
        self._connect(signals.before_task_publish, self._mark)
        self._connect(signals.task_prerun, self._begin)
        self._connect(signals.task_failure, self._fail)
        self._connect(signals.task_postrun, self._end)
        self._connect(signals.worker_init, self._end_last)
        for started in (signals.worker_init, signals.worker_process_init, signals.beat_init):
            started.connect(_start_from_nobody, weak=False)
        for stopped in (signals.worker_process_shutdown, signals.worker_shutdown):
            stopped.connect(_flush, weak=False)
        _contexts[app] = self

    def _connect(self, signal: Any, handler: Callable[..., None]) -> None:
        # Celery 5.3 takes the methods of two apps' extensions for one, unless they are named.
        signal.connect(handler, weak=False, dispatch_uid=self._uid_of(handler))

    def _uid_of(self, handler: Callable[..., None]) -> str:
        return f"usercontext {id(self)} {handler.__name__}"

    # --- where a task is enqueued ---------------------------------------------------------

    def _note_publishing(self) -> None:
        """Tell which app publishes, which the signal does not say."""
        send = self._app.send_task

        @wraps(send)
        def send_task(*args: Any, **options: Any) -> Any:
            token = _publishing.set(self._app)
            try:
                return send(*args, **options)
            finally:
                _publishing.reset(token)

        self._app.send_task = send_task

    def _mark(self, sender: str, headers: dict[str, Any], body: Any = None, **_: object) -> None:
        if _publishing.get() not in (None, self._app):
            return
        # In task protocol 1 the message's body is the mapping that has the id.
        task_id = headers.get("id") or body["id"]
        mark = None
        if not headers.get("celery_beat_task"):
            mark = self._jobs.mark(sender, task_id, headers.get(KEY))
        inner = headers.get("headers")
        # sentry-sdk and ddtrace put headers into a second dict, which alone outlives a retry.
        for place in (headers, inner) if isinstance(inner, dict) else (headers,):
            place.pop(KEY, None)
            if mark is not None:
                place[KEY] = mark

    # --- where it runs --------------------------------------------------------------------

    def _begin(self, task: Task, **_: object) -> None:
        if task.app is self._app:
            running = self._run_of(task, task.request)
            vars(task.request)[_RUNNING] = running
            running.begin()

    def _run_of(self, task: Task, request: Request) -> RunningJob:
        text = _mark_in(request)
        if text is None and request.is_eager:
            return self._jobs.running_here(current())
        return self._jobs.running(
            text, task.name, request.id, request, is_error=lambda error: _is_error(task, error)
        )

    def _fail(self, sender: Task, task_id: str, exception: BaseException, **_: object) -> None:
        if sender.app is not self._app:
            return
        running = _running_of(sender.request)
        if running is not None:
            running.fail(exception)
        elif task_id not in self._reported:
            # The process that ran the task is gone; its parent is told, up to three times.
            _keep(self._reported, task_id, None)
            with self._run_of(sender, self._lost.pop(task_id, sender.request)) as running:
                running.fail(exception)

    def _end(self, task: Task, **_: object) -> None:
        running = _running_of(task.request)
        if running is not None and task.app is self._app:
            del vars(task.request)[_RUNNING]
            running.end()

    def _end_last(self, **_: object) -> None:
        """End a task behind the app's own handlers of its end, which are known by now."""
        signals.task_postrun.disconnect(dispatch_uid=self._uid_of(self._end))
        self._connect(signals.task_postrun, self._end)

    def _note_lost(self, task_id: str, error: object, request: Request | None) -> None:
        """Keep the request of a task that fails outside of it, for the signal that follows."""
        if request is None or current() is not None:
            return
        if not isinstance(error, TimeLimitExceeded):
            _keep(self._lost, task_id, request)
        elif task_id not in self._reported:
            # No signal follows in the gevent pool of Celery 5.3.
            _keep(self._reported, task_id, None)
            job = _mark_in(request), request.task, request.id, request
            with self._jobs.running(*job) as running:
                running.fail(error)

    def _around_errbacks(self, request: Request) -> AbstractContextManager[object]:
        """Give the callbacks of a task that was killed its user: its parent calls them."""
        if current() is not None:
            return nullcontext()
        return self._jobs.running(_mark_in(request), request.task, request.id, request)


def _check(app: object) -> None:
    if not isinstance(app, Celery):
        raise ConfigurationError(
            f"UserContext takes a Celery app, not {described(app)}: write UserContext(app), "
            'where app = Celery("shop")'
        )
    if app in _contexts:
        raise ConfigurationError(
            "this Celery app has a UserContext already: keep one, and give it all options"
        )


def _keep(values: dict[str, Any], task_id: str, value: Any) -> None:
    """Add a value to a dictionary of a few."""
    if len(values) >= _MAX_REPORTED:
        values.clear()
    values[task_id] = value


def _mark_in(request: Request) -> object:
    """Return the mark of a message; sentry-sdk leaves one place, eager tasks have the other."""
    found = getattr(request, KEY, None)
    if found is None and isinstance(request.headers, dict):
        found = request.headers.get(KEY)
    return found


def _running_of(request: Request) -> RunningJob | None:
    found: RunningJob | None = vars(request).get(_RUNNING)
    return found


def _is_error(task: Task, error: BaseException) -> bool:
    """Tell errors from what a task tells its worker, and from what it says it throws."""
    if isinstance(error, Ignore | Reject | Retry) or not isinstance(error, Exception):
        return False
    return not isinstance(error, task.throws)


def _start_from_nobody(**_: object) -> None:
    """Leave behind the user of whoever has started this worker."""
    enter(None)


def _flush(**_: object) -> None:
    flush()


def _name_errbacks() -> None:
    """Have the callbacks of failed tasks called with their user, wherever that is."""
    call = Backend._call_task_errbacks

    @wraps(call)
    def call_errbacks(backend: Any, request: Request, *args: Any, **options: Any) -> Any:
        context = _contexts.get(backend.app)
        with nullcontext() if context is None else context._around_errbacks(request):
            return call(backend, request, *args, **options)

    Backend._call_task_errbacks = call_errbacks


def _note_lost_tasks() -> None:
    mark_as_failure = Backend.mark_as_failure

    @wraps(mark_as_failure)
    def mark(backend: Any, task_id: str, *args: Any, **options: Any) -> Any:
        context = _contexts.get(backend.app)
        if context is not None:
            context._note_lost(task_id, args[0] if args else None, options.get("request"))
        return mark_as_failure(backend, task_id, *args, **options)

    Backend.mark_as_failure = mark


_note_lost_tasks()
if hasattr(Backend, "_call_task_errbacks"):  # private: without it they have no user
    _name_errbacks()
