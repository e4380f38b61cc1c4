"""What the integration of every queue needs: a mark at enqueueing, and a scope for each job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from usercontext.core.context import ask, configure, outgoing
from usercontext.core.lifecycle import resolve
from usercontext.core.record import UNKNOWN, BlockRecord, JobRecord, current
from usercontext.core.running import Running as RunningJob
from usercontext.core.settings import Settings, default
from usercontext.diagnostics import harmless, warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.carried import CarriedIdentity
    from usercontext.core.options import ContextOptions
    from usercontext.core.record import RequestRecord
    from usercontext.user import User

__all__ = ["KEY", "Job", "JobContext", "RunningJob", "described"]

#: What the mark is called in the metadata of every queue.
KEY: Final = "usercontext"

# Libraries whose objects an extension takes, called like its module.
_LIBRARIES: Final = frozenset(
    ("apscheduler", "arq", "celery", "dramatiq", "huey", "procrastinate", "rq", "saq", "taskiq")
)


@dataclass(frozen=True, slots=True)
class Job:
    """What the resolver of a job is called with.

    Attributes:
        name: the name of the task or function.
        id: the job's id, as the queue gives it.
        user: who enqueued it, with the fields that were carried.
        message: what the queue's own library has of the job.
    """

    name: str
    id: str
    user: User
    message: Any


class JobContext:
    """What applies to the jobs of one queue: the options of its `UserContext`, over `init()`'s.

    Args:
        queue: the module's name, for log lines.
        options: see `ContextOptions`. The resolver is called with a `Job`, and only where
            somebody has been carried.
    """

    def __init__(self, queue: str, options: ContextOptions) -> None:
        resolver = options.get("resolver")
        if callable(resolver):
            options["resolver"] = _loading(resolver)
        self.queue: str = queue
        self._own = configure(**options)
        self._joined: tuple[Settings, Settings] | None = None

    @property
    def settings(self) -> Settings:
        """The options that apply now; the resolver of `init()` is for requests, not for jobs."""
        base, joined = default(), self._joined
        if joined is None or joined[0] is not base:
            joined = self._joined = (base, self._own.without_resolver_of(base))
        return joined[1]

    # --- where a job is enqueued ----------------------------------------------------------

    def mark(self, name: str, id: str, found: object = None) -> str | None:  # noqa: A002
        """Return the text that carries the current user to a job; None where there is nobody.

        A job that is tried again keeps the mark that it has, whatever its body has set. A sync
        resolver is asked first; an async one only by `mark_async`.

        Args:
            name: the name of the job's function.
            id: the job's id.
            found: what stands in the message already: kept if it is the job's own.
        """
        record, carried = current(), self._carried("enqueued")
        if carried is None:
            return None
        # Queues take ids of other types, such as a UUID, and give their text to the job.
        name, id = str(name), str(id)  # noqa: A001
        if isinstance(found, str) and carried.is_for(found, ("job", name, id)):
            return found
        if record is None:
            return None
        root = record.root
        if isinstance(root, JobRecord) and root.job == (name, id):
            return root.text
        with harmless("jobs mark", "a job of %s carries nobody", self.queue):
            fields = outgoing(record)
            if self._own.scrubber:
                fields = self._own.scrubber.user(fields)
            return carried.sign(fields, ("job", name, id))
        return None

    async def mark_async(self, name: str, id: str, found: object = None) -> str | None:  # noqa: A002
        """Do what `mark` does, and await an async resolver first."""
        record = current()
        if record is not None and record.ended is None and record.user is UNKNOWN:
            await resolve(record)
        return self.mark(name, id, found)

    def _carried(self, done: str) -> CarriedIdentity | None:
        carried = self.settings.carried
        if carried is None:
            warn_once(
                f"{self.queue}: nothing is carried when {done}",
                "jobs of %s are %s without a user: call usercontext.init(carried="
                'CarriedIdentity(keys=[KEY], audience="shop")) in this process',
                self.queue,
                done,
            )
        return carried

    # --- where it runs --------------------------------------------------------------------

    def user_of(self, text: object, name: str, id: str) -> User | None:  # noqa: A002
        """Return the user that a mark carries, if it is accepted for this job."""
        if text is None:
            return None
        carried = self._carried("run")
        return None if carried is None else carried.read(text, ("job", name, id))

    def running(
        self,
        text: object,
        name: str,
        id: str,  # noqa: A002
        message: object = None,
        *,
        is_error: Callable[[BaseException], bool] | None = None,
    ) -> RunningJob:
        """Return one run of a job, to be entered: with the user of its mark, or nobody.

        Args:
            text: the mark as it was found in the message; None where there is none.
            name: the job's name, as it was marked with.
            id: its id.
            message: what the resolver finds in `Job.message`.
            is_error: tells the exceptions that are reported from those by which the queue is
                told what to do.
        """
        settings = self.settings
        name, id = str(name), str(id)  # noqa: A001
        record = JobRecord.of_job(settings, (name, id), text if isinstance(text, str) else None)
        user = self.user_of(text, name, id)
        if user is None:
            # Nobody has enqueued it: there is nobody to load, either.
            record.user = None if settings.resolver is not None else UNKNOWN
        elif settings.resolver is None:
            record.claim(user)
        else:
            record.make_state().request = Job(name, id, user, message)
        return RunningJob(record, is_error=is_error)

    def running_here(self, outer: RequestRecord | None) -> RunningJob:
        """Return one run of a job inside of whoever calls it, whose user it has.

        Args:
            outer: the caller's record.
        """
        if outer is None:
            return RunningJob(JobRecord.of_job(self.settings, ("", ""), None))
        known = ask(outer) if outer.ended is None else outer.known()
        if outer.user is UNKNOWN and outer.settings.resolver is not None:
            # Only the request itself can await its resolver.
            return RunningJob(outer, is_own=False)
        block = BlockRecord.within(outer)
        block.claim(None if known is UNKNOWN else known)
        return RunningJob(block)


def described(target: object) -> str:
    """Name what an extension does not take, and the module whose extension does."""
    kind = target if isinstance(target, type) else type(target)
    roots = (parent.__module__.partition(".")[0] for parent in kind.__mro__)
    library = next((root for root in roots if root in _LIBRARIES), None)
    hint = "" if library is None else f" (that is for usercontext.jobs.{library})"
    return f"{type(target).__name__}{hint}"


def _loading(resolver: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let the carried user stand in for one that a failing resolver could not load."""
    from functools import update_wrapper
    from inspect import iscoroutinefunction

    name = getattr(resolver, "__qualname__", type(resolver).__qualname__)
    failed = f"job resolver {name}", "%s failed: this job has the user that it was given", name

    def load(job: Job) -> object:
        with harmless(*failed):
            return resolver(job)
        return job.user

    async def load_async(job: Job) -> object:
        with harmless(*failed):
            return await resolver(job)
        return job.user

    is_async = iscoroutinefunction(resolver) or iscoroutinefunction(
        getattr(resolver, "__call__", None)  # noqa: B004
    )
    loading: Any = load_async if is_async else load
    return update_wrapper(loading, resolver) if hasattr(resolver, "__qualname__") else loading
