"""The built-in reporting client: from an exception to a finished event in the queue."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from usercontext import checks
from usercontext.clients.base import BaseClient
from usercontext.core.record import current
from usercontext.core.settings import default
from usercontext.diagnostics import failure, warn_once
from usercontext.event_loop import run_in_own_thread
from usercontext.privacy.pseudonyms import checked_key
from usercontext.sentry import options as check
from usercontext.sentry.delivery.build import (
    FileOptions,
    HttpOptions,
    QueueOptions,
    transport_to,
)
from usercontext.sentry.dsn import Dsn, sqlite_path
from usercontext.sentry.event.builder import EventBuilder
from usercontext.sentry.event.draft import Draft
from usercontext.sentry.event.payload import plain
from usercontext.sentry.event.stacktrace import StackTraces
from usercontext.sentry.guarded import Guarded
from usercontext.sentry.outgoing import Outgoing
from usercontext.sentry.sampling import Sampling, user_limit
from usercontext.sentry.stops import is_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta
    from os import PathLike

    from usercontext.sentry.delivery.transport import Transport
    from usercontext.types import Event, GetUser
    from usercontext.user import User

__all__ = ["SentryClient"]

_MAX_QUEUE = 100
_MAX_QUEUE_BYTES = 4 << 20
_MAX_OUTBOX_BYTES = 64 << 20


class SentryClient(BaseClient):
    """Reports to a server of the Sentry protocol, or to an SQLite file.

    Nothing is sent on the thread that captures: it copies what may change, a background thread does
    the rest. Without a DSN nothing is reported at all. No method raises at run time.

    Args:
        dsn: `https://<key>@<host>/<project>`, `sqlite:///<file>`, or None or `""`.
        release: the app's version, as the server is to show it.
        environment: where the app runs.
        server_name: the host's name; never an address. Without it, the system's own.
        sample_rate: the part of all events that is sent, 0.0 to 1.0.
        sample_by: "event", each by chance; or "user", so that all of one user's events are sent or
            none, in every process, and whoever is sent at one rate is sent at each higher one.
            Events of nobody go by chance.
        sample_key: at least 16 bytes that decide which users those are; by default what the DSN
            gives, so that projects differ. Services with one key send the same users' events.
        max_per_user: how many events of one user a process sends, such as "10/minute"; per
            second, minute, hour or day. Further ones are dropped; nobody's are not counted.
        before_send: called with each event (a plain dict) on the thread that captures; returns
            it, changed or not, or None to drop it. If it raises, the event is dropped. Scrubbing
            rules apply after it.
        include_local_variables: whether the app's own frames show their variables; names that
            look secret are filtered.
        exception_text: "safe", the texts of errors without the input that they quote; "full", as
            they are; "none", the classes alone. By default what `init()` was given, or "safe".
        in_app_include: modules that are the app's own although they are installed.
        in_app_exclude: modules that are not the app's own.
        max_queue: how many events may wait for the background thread; further ones are dropped.
        max_queue_bytes: about how much memory they may take.
        overflow: which event is dropped when there is no room: "drop_newest", the one that
            comes, or "drop_oldest", the one that has waited longest.
        outbox: an SQLite file in which events wait until the server has decided about them, so
            that they survive a crash, a restart and an outage. Several processes may share it. Or
            the URL of an engine that many machines share, `redis://...` or `postgresql://...`.
        timeout: seconds for each of connecting, writing and reading.
        shutdown_timeout: seconds that the interpreter waits at exit for what is queued.
        proxy: URL of a proxy, of HTTP or SOCKS 5, instead of the environment's.
        ca_certs: file of the certificates to trust, instead of the usual ones.
        max_reports: how many reports an SQLite file, or the outbox, keeps.
        max_age: how long it keeps them: a timedelta or seconds.
        max_outbox_bytes: how large the outbox may grow, about; the oldest reports make room.
        transport: takes the finished events in place of the DSN's server or file; or "httpx",
            which sends to the server by that package, as HTTP proxies that want a
            password make us do anyway.

    Raises:
        InvalidDsnError: the DSN cannot be used.
        ConfigurationError: another option is wrong; the message says which, and what to write.
        MissingDependencyError: the DSN is an HTTP one and httpx is not installed.
    """

    def __init__(
        self,
        dsn: str | Dsn | None = None,
        *,
        release: str | None = None,
        environment: str | None = None,
        server_name: str | None = None,
        sample_rate: float = 1.0,
        sample_by: Literal["event", "user"] = "event",
        sample_key: bytes | str | None = None,
        max_per_user: str | None = None,
        before_send: Callable[[Event], Event | None] | None = None,
        include_local_variables: bool = False,
        exception_text: Literal["safe", "full", "none"] | None = None,
        in_app_include: Iterable[str] = (),
        in_app_exclude: Iterable[str] = (),
        max_queue: int = _MAX_QUEUE,
        max_queue_bytes: int = _MAX_QUEUE_BYTES,
        overflow: Literal["drop_newest", "drop_oldest"] = "drop_newest",
        outbox: str | PathLike[str] | None = None,
        timeout: float = 10.0,
        shutdown_timeout: float = 2.0,
        proxy: str | None = None,
        ca_certs: str | None = None,
        max_reports: int = 10_000,
        max_age: float | timedelta = 30 * 86_400.0,
        max_outbox_bytes: int = _MAX_OUTBOX_BYTES,
        transport: Transport | Literal["httpx"] | None = None,
    ) -> None:
        self._environment = check.environment(environment)
        #: What was asked for here; None: what applies to the request, or else `init()` says.
        self.exception_text: Literal["safe", "full", "none"] | None = checks.choice(
            "exception_text", exception_text, "safe", "full", "none", None
        )
        before_send = checks.function("before_send", before_send)
        sample_rate = check.fraction("sample_rate", sample_rate)
        by_user = checks.choice("sample_by", sample_by, "event", "user") == "user"
        key = None if sample_key is None else checked_key(sample_key, "sample_key")
        limit = user_limit("max_per_user", max_per_user)
        self._builder = EventBuilder(
            StackTraces(
                in_app_include=check.names("in_app_include", in_app_include),
                in_app_exclude=check.names("in_app_exclude", in_app_exclude),
                include_local_variables=checks.flag(
                    "include_local_variables", include_local_variables
                ),
                # Whoever gets to see an event may change it.
                copies_lines=before_send is not None or not isinstance(transport, str | None),
            ),
            release=check.release(release),
            environment=self._environment,
            server_name=check.server_name(server_name),
            exception_text=self._exception_text,
        )
        waits = QueueOptions.checked(max_queue, max_queue_bytes, overflow, shutdown_timeout)
        http = HttpOptions.checked(timeout, proxy, ca_certs, by_httpx=transport == "httpx")
        keeps = FileOptions.checked(outbox, max_reports, max_age, max_outbox_bytes)
        self._target: Dsn | str | None = _parse(dsn)
        self._get_user: GetUser | None = None
        taker = None if transport == "httpx" else check.transport(transport)
        if taker is None:
            taker = transport_to(self._target, http, waits, keeps)
        sampling = Sampling(sample_rate, (key or _sample_key(self._target)) if by_user else None)
        self._outgoing = None if taker is None else Outgoing(taker, sampling, limit, before_send)
        self._guarded = Guarded(self._outgoing)
        #: Tells whether to build a report of a user's fields; None: every user is as good.
        self.admits: Callable[[Mapping[str, Any] | None], bool] | None = (
            self._guarded.admits
            if self._outgoing is not None and self._outgoing.asks_for_user
            else None
        )
        # A class of the app's own that changes what is built or sent gets to see whole events.
        own = SentryClient.build_exception, SentryClient.send
        self._drafts = (
            self._outgoing is not None
            and self._outgoing.takes_drafts()
            and (type(self).build_exception, type(self).send) == own
        )

    def __repr__(self) -> str:
        target = "nothing" if self._target is None else str(self._target)
        return f"<SentryClient to {target!r}, environment {self._environment!r}>"

    def _exception_text(self) -> str:
        if self.exception_text is not None:
            return self.exception_text
        record = current()
        return (default() if record is None else record.settings).exception_text

    def setup(self, get_user: GetUser, /) -> None:
        """Remember what to ask for the user of what this client captures on its own."""
        self._get_user = get_user

    # In two steps, between which the context adds user and request

    def build_exception(
        self, error: BaseException, *, handled: bool = True, level: str = "error"
    ) -> Event | None:
        """Build the report of an exception on the calling thread; None if it is not wanted.

        Its lists of source lines are other reports', too: replace one rather than change it.
        """
        if is_stop(error):
            return None
        return self._guarded.build(
            lambda: self._builder.exception(error, level=level, handled=handled)
        )

    def draft_exception(
        self, error: BaseException, *, handled: bool = True, level: str = "error"
    ) -> Event | None:
        """Build the report of an exception, parts of which the worker makes where it can.

        To be handed to `send` as it is; nobody but the context, which knows that, asks for one.
        """
        if not self._drafts:
            return self.build_exception(error, handled=handled, level=level)
        if is_stop(error):
            return None
        return self._guarded.build(
            lambda: self._builder.exception(error, level=level, handled=handled, draft=Draft())
        )

    def build_message(self, message: str, *, level: str = "info") -> Event | None:
        """Build the report of a message on the calling thread; None if it is not wanted."""
        return self._guarded.build(lambda: self._builder.message(message, level=level))

    def send(self, event: Event, *, scrub: Callable[[Event], Event] | None = None) -> str | None:
        """Send a prepared report and return its id, or None if it was dropped.

        Args:
            event: what `build_exception` or `build_message` built, with what was added.
            scrub: applied after `before_send`, so that nothing gets past it; if it raises,
                the event is dropped.
        """
        return self._guarded.send(event, scrub)

    def discard(self, reason: str) -> None:
        """Count a report that was built, and that could not be completed."""
        self._guarded.discard(reason)

    # In one step, for use without a context

    def capture_exception(
        self,
        error: BaseException | None = None,
        *,
        level: str = "error",
        handled: bool = True,
        user: User | Mapping[str, Any] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Report an exception, the one being handled if none is given.

        Args:
            error: the exception.
            level: fatal, error, warning, info or debug.
            handled: whether the app went on; False for one that ended a request.
            user: who to name; else whoever the context knows.
            request: the `request` part of the event.

        Returns:
            The event's id, or None if nothing was reported.
        """
        error = sys.exc_info()[1] if error is None else error
        if not isinstance(error, BaseException):
            warn_once("no exception", "capture_exception() was called without an exception")
            return None
        if not self._is_admitted(user, error):
            return None
        event = self.draft_exception(error, level=level, handled=handled)
        return self._capture(event, user, request, error)

    def capture_message(
        self,
        message: str,
        *,
        level: str = "info",
        user: User | Mapping[str, Any] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Report a message; see `capture_exception` for the rest."""
        if not self._is_admitted(user, None):
            return None
        return self._capture(self.build_message(message, level=level), user, request, None)

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until everything submitted before is dealt with; return whether it was in time."""
        return self._guarded.flush(timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop for good; return whether everything was in time."""
        return self._guarded.close(timeout)

    async def aflush(self, timeout: float = 2.0) -> bool:  # noqa: ASYNC109
        """Await what `flush()` waits for; the event loop goes on meanwhile."""
        return await run_in_own_thread(self.flush, timeout)

    async def aclose(self, timeout: float = 2.0) -> bool:  # noqa: ASYNC109
        """Await what `close()` waits for; the event loop goes on meanwhile."""
        return await run_in_own_thread(self.close, timeout)

    def stats(self) -> dict[str, Any]:
        """Return how many events were captured, sent, are queued, and were discarded for what.

        At any time `captured == sent + queued + sum(discarded.values())`.
        """
        return self._guarded.stats()

    def _is_admitted(
        self, user: User | Mapping[str, Any] | None, error: BaseException | None
    ) -> bool:
        return self.admits is None or self.admits(self._user_fields(user, error))

    def _capture(
        self,
        event: Event | None,
        user: User | Mapping[str, Any] | None,
        request: Mapping[str, Any] | None,
        error: BaseException | None,
    ) -> str | None:
        if event is None:
            return None
        fields = self._user_fields(user, error)
        if fields:
            event["user"] = fields
        if request:
            event["request"] = plain(request)
        return self.send(event)

    def _user_fields(
        self, user: User | Mapping[str, Any] | None, error: BaseException | None
    ) -> dict[str, Any] | None:
        if user is None:
            return self._get_user(error=error) if self._get_user is not None else None
        return _fields_of(user)


def _fields_of(user: User | Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields of a user that a report is given; None for what is not one."""
    from usercontext.user import User

    try:
        taken = User.of(user)
    except Exception:  # noqa: BLE001
        failure("user of a report", "usercontext reports without a user that is none")
        return None
    return taken.to_dict() if taken is not None else None


def _sample_key(target: Dsn | str | None) -> bytes:
    """Return what decides where no key is given: the same for all processes of one project."""
    project = f"{target.public_key}/{target.project}" if isinstance(target, Dsn) else ""
    return f"usercontext sample {project}".encode()


def _parse(dsn: Any) -> Dsn | str | None:
    """Return the server's DSN, or the SQLite file's, or None if nothing is to be reported."""
    if dsn is None or isinstance(dsn, Dsn):
        return dsn
    dsn = dsn.strip() if isinstance(dsn, str) else dsn
    if dsn == "":
        return None
    return dsn if sqlite_path(dsn) is not None else Dsn(dsn)
