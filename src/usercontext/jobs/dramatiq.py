"""Dramatiq: the user of a message, in threads and coroutines, through retries and pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import WeakSet

from dramatiq import Broker, Middleware
from dramatiq.middleware import TimeLimitExceeded

from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.jobs.base import KEY, JobContext, RunningJob, described

if TYPE_CHECKING:
    from dramatiq import Message
    from dramatiq.broker import MessageProxy

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# Where a run is kept on the message that every hook is given.
_RUNNING: Final = "_usercontext_running"

_initialised: WeakSet[Broker] = WeakSet()


class UserContext:
    """Make whoever sends a message of a Dramatiq broker its user while it is processed.

    `UserContext(broker)`, behind `dramatiq.set_broker(broker)`: both who sends and who works
    import it from there. The mark travels in the message's options; retries keep it, and
    pipelines, callbacks and what an actor sends have the user that the message has then. An
    attempt that is tried again is not reported.

    Args:
        broker: the broker.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with a `usercontext.jobs.Job`, whose `user` is whoever was carried.

    Raises:
        ConfigurationError: an option is wrong, or the broker has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, broker: Broker, **options: Unpack[ContextOptions]) -> None:
        _check(broker)
        carrying = _Carrying(JobContext("dramatiq", options))
        # First of all, so that its end comes last: retries and pipelines are sent at the ends
        # of others.
        first = next((type(one) for one in broker.middleware), None)
        broker.add_middleware(carrying, **({} if first is None else {"before": first}))
        _initialised.add(broker)


class _Carrying(Middleware):  # type: ignore[misc]
    """The hooks of a broker."""

    def __init__(self, jobs: JobContext) -> None:
        self._jobs = jobs

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:  # noqa: ARG002
        options = message.options
        mark = self._jobs.mark(message.actor_name, message.message_id, options.pop(KEY, None))
        if mark is not None:
            options[KEY] = mark

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        running = self._jobs.running(
            message.options.get(KEY),
            message.actor_name,
            message.message_id,
            message,
            is_error=_is_error,
        )
        vars(message)[_RUNNING] = running, message.options.get("retries", 0)
        running.begin()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        found = vars(message).pop(_RUNNING, None)
        if found is None:
            return
        running: RunningJob = found[0]
        try:
            is_last = message.failed or message.options.get("retries", 0) == found[1]
            if exception is not None and is_last and not _throws(broker, message, exception):
                running.fail(exception)
        finally:
            running.end()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self.after_process_message(broker, message)

    def before_worker_shutdown(self, broker: Broker, worker: object) -> None:  # noqa: ARG002
        flush()


def _check(broker: object) -> None:
    if not isinstance(broker, Broker):
        raise ConfigurationError(
            f"UserContext takes a broker of Dramatiq, not {described(broker)}: write "
            "UserContext(broker), where broker = RedisBroker(...)"
        )
    if broker in _initialised:
        raise ConfigurationError(
            "this broker has a UserContext already: keep one, and give it all options"
        )


def _is_error(error: BaseException) -> bool:
    """Tell errors from the worker's wish to stop."""
    return isinstance(error, Exception | TimeLimitExceeded)


def _throws(broker: Broker, message: MessageProxy, error: BaseException) -> bool:
    """Return whether an actor says that it throws such errors."""
    throws = message.options.get("throws") or broker.get_actor(message.actor_name).options.get(
        "throws"
    )
    return bool(throws) and isinstance(error, throws)
