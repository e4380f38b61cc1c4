"""The built-in reporting client: from an exception to a finished event in the queue."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from usercontext.clients.base import BaseClient
from usercontext.diagnostics import failure, warn_once
from usercontext.event_loop import run_in_own_thread
from usercontext.exceptions import ConfigurationError
from usercontext.sentry import options as check
from usercontext.sentry.delivery.queue import in_own_work, own_work
from usercontext.sentry.dsn import Dsn, sqlite_path
from usercontext.sentry.event.builder import SDK, EventBuilder
from usercontext.sentry.event.payload import plain
from usercontext.sentry.event.stacktrace import StackTraces

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta
    from os import PathLike

    from usercontext.sentry.delivery.http import Transport
    from usercontext.types import Event, GetUser
    from usercontext.user import User

__all__ = ["SentryClient"]

_MAX_QUEUE = 100
_MAX_QUEUE_BYTES = 4 << 20
_MAX_OUTBOX_BYTES = 64 << 20
_MAX_TIMEOUT = 86_400.0

#: Not failures, but ways in which a program stops. Of modules that may not be installed or loaded.
_STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)
_STOPS_ELSEWHERE = (
    ("asyncio.exceptions", "CancelledError"),
    ("greenlet", "GreenletExit"),
    ("trio", "Cancelled"),
)


class SentryClient(BaseClient):
    """Reports to a server of the Sentry protocol, or to an SQLite file.

    Nothing is sent on the thread that captures: it builds the event, a background thread does
    the rest. Without a DSN nothing is reported at all. No method raises at run time.

    Args:
        dsn: `https://<key>@<host>/<project>`, `sqlite:///<file>`, or None or `""`.
        release: the app's version, as the server is to show it.
        environment: where the app runs.
        server_name: the host's name; never an address. Without it, the system's own.
        sample_rate: the part of all events that is sent, 0.0 to 1.0.
        before_send: called with each event (a plain dict) on the thread that captures; returns
            it, changed or not, or None to drop it. If it raises, the event is dropped. Scrubbing
            rules apply after it.
        include_local_variables: whether the app's own frames show their variables; names that
            look secret are filtered.
        in_app_include: modules that are the app's own although they are installed.
        in_app_exclude: modules that are not the app's own.
        max_queue: how many events may wait for the background thread; further ones are dropped.
        max_queue_bytes: about how much memory they may take.
        overflow: which event is dropped when there is no room: "drop_newest", the one that
            comes, or "drop_oldest", the one that has waited longest.
        outbox: an SQLite file in which events wait until the server has decided about them, so
            that they survive a crash, a restart and an outage. Several processes may share it.
        timeout: seconds for each of connecting, writing and reading.
        shutdown_timeout: seconds that the interpreter waits at exit for what is queued.
        proxy: URL of an HTTP proxy, instead of the environment's.
        ca_certs: file of the certificates to trust, instead of the usual ones.
        max_reports: how many reports an SQLite file, or the outbox, keeps.
        max_age: how long it keeps them: a timedelta or seconds.
        max_outbox_bytes: how large the outbox may grow, about; the oldest reports make room.
        transport: takes the finished events in place of the DSN's server or file.

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
        before_send: Callable[[Event], Event | None] | None = None,
        include_local_variables: bool = False,
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
        transport: Transport | None = None,
    ) -> None:
        self._environment = check.environment(environment)
        self._sample_rate = check.fraction("sample_rate", sample_rate)
        self._before_send: Callable[[Event], object] | None = check.function(
            "before_send", before_send
        )
        traces = StackTraces(
            in_app_include=check.names("in_app_include", in_app_include),
            in_app_exclude=check.names("in_app_exclude", in_app_exclude),
            include_local_variables=check.flag("include_local_variables", include_local_variables),
            # Whoever gets to see an event may change it.
            copies_lines=before_send is not None or transport is not None,
        )
        self._builder = EventBuilder(
            traces,
            release=check.release(release),
            environment=self._environment,
            server_name=check.server_name(server_name),
        )
        queue = {
            "max_queue": check.count("max_queue", max_queue),
            "max_queue_bytes": check.count("max_queue_bytes", max_queue_bytes),
            "shutdown_timeout": check.seconds("shutdown_timeout", shutdown_timeout, or_zero=True),
            "drop_oldest": check.overflow(overflow) == "drop_oldest",
        }
        http = {
            "timeout": check.seconds("timeout", timeout),
            "proxy": check.proxy(proxy),
            "ca_certs": check.file_name("ca_certs", ca_certs),
        }
        sqlite = {
            "max_reports": check.count("max_reports", max_reports),
            "max_age": check.seconds("max_age", max_age),
        }
        kept = {
            "path": check.outbox(outbox),
            "max_bytes": check.count("max_outbox_bytes", max_outbox_bytes),
            **sqlite,
        }
        self._target: Dsn | str | None = _parse(dsn)
        self._random = _random() if self._sample_rate < 1.0 else None
        self._get_user: GetUser | None = None
        self._transport = check.transport(transport)
        if self._transport is None:
            self._transport = _transport(self._target, {**http, **queue}, {**sqlite, **queue}, kept)

    def __repr__(self) -> str:
        target = "nothing" if self._target is None else str(self._target)
        return f"<SentryClient to {target!r}, environment {self._environment!r}>"

    def setup(self, get_user: GetUser, /) -> None:
        """Remember whom to ask for the user of what this client captures on its own."""
        self._get_user = get_user

    # In two steps, between which the context adds user and request

    def build_exception(
        self, error: BaseException, *, handled: bool = True, level: str = "error"
    ) -> Event | None:
        """Build the report of an exception on the calling thread; None if it is not wanted.

        Its lists of source lines are other reports', too: replace one rather than change it.
        """
        if _is_stop(error):
            return None
        return self._build(lambda: self._builder.exception(error, level=level, handled=handled))

    def build_message(self, message: str, *, level: str = "info") -> Event | None:
        """Build the report of a message on the calling thread; None if it is not wanted."""
        return self._build(lambda: self._builder.message(message, level=level))

    def send(self, event: Event, *, scrub: Callable[[Event], Event] | None = None) -> str | None:
        """Send a prepared report and return its id, or None if it was dropped.

        Args:
            event: what `build_exception` or `build_message` built, with what was added.
            scrub: applied after `before_send`, so that nothing gets past it; if it raises,
                the event is dropped.
        """
        if self._transport is None:
            return None
        with own_work:
            try:
                return self._send(event, scrub, self._transport)
            except Exception:  # noqa: BLE001
                failure("submit", "usercontext could not hand over a report")
                self._discard("internal_sdk_error")
                return None

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
            user: whom to name; else whoever the context knows.
            request: the `request` part of the event.

        Returns:
            The event's id, or None if nothing was reported.
        """
        error = sys.exc_info()[1] if error is None else error
        if not isinstance(error, BaseException):
            warn_once("no exception", "capture_exception() was called without an exception")
            return None
        event = self.build_exception(error, level=level, handled=handled)
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
        return self._capture(self.build_message(message, level=level), user, request, None)

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until everything submitted before is dealt with; return whether it was in time."""
        return self._transport is None or _wait(self._transport.flush, timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop for good; return whether everything was in time."""
        return self._transport is None or _wait(self._transport.close, timeout)

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
        if self._transport is None:
            return {"captured": 0, "sent": 0, "queued": 0, "discarded": {}}
        return self._transport.stats()

    def _build(self, build: Callable[[], Event]) -> Event | None:
        if self._transport is None or in_own_work():
            return None
        with own_work:
            try:
                return build() if self._is_wanted(self._transport) else None
            except Exception:  # noqa: BLE001
                failure("event", "usercontext could not build a report and dropped it")
                self._discard("internal_sdk_error")
                return None

    def _is_wanted(self, transport: Transport) -> bool:
        """Return whether an event is to be built: tested first, as building costs most."""
        if self._random is not None and self._random.random() >= self._sample_rate:
            transport.discard("sample_rate")
            return False
        if not transport.has_room():
            transport.discard("queue_overflow")
            return False
        return True

    def _send(
        self, event: Event, scrub: Callable[[Event], Event] | None, transport: Transport
    ) -> str | None:
        event_id: str = event["event_id"]
        finished = self._finished(event, scrub)
        if finished is None:
            return None
        # Whatever `before_send` made of it: the id that is returned is the one that is sent.
        finished["event_id"] = event_id
        return event_id if transport.submit(finished) else None

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
        from usercontext.user import User

        try:
            taken = User.of(user)
        except Exception:  # noqa: BLE001
            failure("user of a report", "usercontext reports without a user that is none")
            return None
        return taken.to_dict() if taken is not None else None

    def _finished(self, event: Event, scrub: Callable[[Event], Event] | None) -> Event | None:
        """Return the event as it is sent: `before_send`, then the last word, then `infer_ip`."""
        if self._before_send is not None:
            changed = _changed(event, self._before_send)
            if changed is None:
                self._discard("before_send")
                return None
            event = changed
        if self._before_send is not None or scrub is not None:
            # What the last word saw is what is sent: no object whose text it did not see, and
            # nothing that the app still holds and may change.
            event = plain(event)
        if scrub is not None:
            scrubbed = _scrubbed(event, scrub)
            if scrubbed is None:
                self._discard("event_processor")
                return None
            event = scrubbed
        event["sdk"] = {**SDK, "settings": {"infer_ip": _infer_ip(event)}}
        return event

    def _discard(self, reason: str) -> None:
        try:
            if self._transport is not None:
                self._transport.discard(reason)
        except Exception:  # noqa: BLE001
            failure("discard", "usercontext could not count a report that it dropped")


def _changed(event: Event, before_send: Callable[[Event], object]) -> Event | None:
    """Return what the app's `before_send` made of the event; None drops it."""
    try:
        changed = before_send(event)
    except Exception:  # noqa: BLE001
        # Redaction may be half done: better no report than one that tells too much.
        failure("before_send", "before_send raised, so the report was dropped")
        return None
    if changed is None or isinstance(changed, dict):
        return changed
    warn_once(
        "result of before_send",
        "before_send must return the event or None, not %s: the report was dropped",
        type(changed).__name__,
    )
    return None


def _scrubbed(event: Event, scrub: Callable[[Event], Event]) -> Event | None:
    try:
        return scrub(event)
    except Exception:  # noqa: BLE001
        failure("scrubbing", "a report could not be scrubbed and was dropped")
        return None


def _wait(method: Callable[[float], bool], timeout: float) -> bool:
    """Call `flush` or `close` with a timeout that a lock can take; False if it fails."""
    try:
        return method(min(max(0.0, float(timeout)), _MAX_TIMEOUT))
    except Exception:  # noqa: BLE001
        failure("flush", "usercontext could not flush its reports")
        return False


def _parse(dsn: Any) -> Dsn | str | None:
    """Return the server's DSN, or the SQLite file's, or None if nothing is to be reported."""
    if dsn is None or isinstance(dsn, Dsn):
        return dsn
    dsn = dsn.strip() if isinstance(dsn, str) else dsn
    if dsn == "":
        return None
    return dsn if sqlite_path(dsn) is not None else Dsn(dsn)


def _transport(
    target: Dsn | str | None, http: dict[str, Any], sqlite: dict[str, Any], kept: dict[str, Any]
) -> Transport | None:
    if target is None:
        return None
    if isinstance(target, Dsn):
        return _http_transport(target, http, kept)
    if kept["path"] is not None:
        raise ConfigurationError(
            "outbox= needs the DSN of a server, as a file needs no other one: leave it out"
        )
    from usercontext.sentry.delivery.store import SqliteStore

    return SqliteStore(sqlite_path(target) or "", **sqlite)


def _http_transport(target: Dsn, http: dict[str, Any], kept: dict[str, Any]) -> Transport:
    if kept["path"] is None:
        from usercontext.sentry.delivery.http import HttpTransport

        return HttpTransport(target, **http)
    from usercontext.sentry.delivery.durable import DurableTransport
    from usercontext.sentry.delivery.outbox import Outbox

    transport = DurableTransport(target, outbox=Outbox(target=target.public, **kept), **http)
    transport.resume()
    return transport


def _random() -> random.Random:
    import random

    # Its own: seeding the global one, as tests do, must not decide what is reported.
    return random.Random()  # noqa: S311


def _is_stop(error: BaseException) -> bool:
    if isinstance(error, Exception):
        return False
    if isinstance(error, _STOPS):
        return True
    for module, name in _STOPS_ELSEWHERE:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return True
    return False


def _infer_ip(event: Event) -> str:
    """Return `auto` only where the app itself asked the server for the address."""
    user = event.get("user")
    return "auto" if isinstance(user, dict) and user.get("ip_address") == "{{auto}}" else "never"
