"""Puts transports together: a queue, its ledger, and what becomes of its events."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from usercontext import checks
from usercontext.exceptions import ConfigurationError
from usercontext.sentry import options as check
from usercontext.sentry.delivery.connection import ServerConnection
from usercontext.sentry.delivery.durable import OutboxDestination
from usercontext.sentry.delivery.engine import EngineBounds, is_engine
from usercontext.sentry.delivery.envelope import USER_AGENT, auth_header
from usercontext.sentry.delivery.forwarder import Forwarder
from usercontext.sentry.delivery.http import HttpDestination, Sender
from usercontext.sentry.delivery.kept import Kept
from usercontext.sentry.delivery.ledger import Ledger
from usercontext.sentry.delivery.outbox import Bounds, Outbox
from usercontext.sentry.delivery.proxies import named_proxy
from usercontext.sentry.delivery.queue import Queue
from usercontext.sentry.delivery.store import SqliteStore
from usercontext.sentry.delivery.transport import QueuedTransport
from usercontext.sentry.dsn import Dsn, sqlite_path

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from usercontext.sentry.delivery.destination import Destination
    from usercontext.sentry.delivery.holding import Holding

__all__ = ["FileOptions", "HttpOptions", "OpenOutbox", "QueueOptions", "transport_to"]


class QueueOptions(NamedTuple):
    """What waits in memory, and how long a process waits for it at exit."""

    max_queue: int
    max_queue_bytes: int
    drop_oldest: bool = False
    shutdown_timeout: float = 2.0

    @classmethod
    def checked(
        cls, max_queue: object, max_queue_bytes: object, overflow: object, shutdown_timeout: object
    ) -> QueueOptions:
        """Return the options, or raise the ConfigurationError that mends them."""
        return cls(
            checks.count("max_queue", max_queue),
            checks.count("max_queue_bytes", max_queue_bytes),
            checks.choice("overflow", overflow, "drop_newest", "drop_oldest") == "drop_oldest",
            checks.seconds("shutdown_timeout", shutdown_timeout, least=0),
        )


class HttpOptions(NamedTuple):
    """The way to a server."""

    timeout: float = 10.0
    proxy: str | None = None
    ca_certs: str | None = None
    by_httpx: bool = False

    @classmethod
    def checked(
        cls, timeout: object, proxy: str | None, ca_certs: object, *, by_httpx: bool
    ) -> HttpOptions:
        """Return the options, or raise the ConfigurationError that mends them."""
        return cls(
            checks.seconds("timeout", timeout),
            named_proxy(proxy),
            check.file_name("ca_certs", ca_certs),
            by_httpx,
        )

    def connection(self, dsn: Dsn) -> ServerConnection:
        """Return a connection that is not open yet."""
        headers = {
            "User-Agent": USER_AGENT,
            "Content-Type": "application/x-sentry-envelope",
            "X-Sentry-Auth": auth_header(dsn.public_key),
        }
        return ServerConnection(dsn, headers, **self._asdict())


class FileOptions(NamedTuple):
    """What is kept in files, and for how long."""

    outbox: str | None = None
    max_reports: int = 10_000
    max_age: float = 30 * 86_400.0
    max_outbox_bytes: int = 64 << 20

    @classmethod
    def checked(
        cls, outbox: object, max_reports: object, max_age: object, max_outbox_bytes: object
    ) -> FileOptions:
        """Return the options, or raise the ConfigurationError that mends them."""
        return cls(
            check.outbox(outbox),
            checks.count("max_reports", max_reports),
            checks.seconds("max_age", max_age),
            checks.count("max_outbox_bytes", max_outbox_bytes),
        )

    def bounds(self) -> Bounds:
        """Return the outbox's bounds."""
        return Bounds(
            max_reports=self.max_reports, max_bytes=self.max_outbox_bytes, max_age=self.max_age
        )


def transport_to(
    target: Dsn | str | None, http: HttpOptions, waits: QueueOptions, keeps: FileOptions
) -> QueuedTransport | None:
    """Return the transport to a server or an SQLite file; None without a target.

    Raises:
        ConfigurationError: the options do not fit the target, or a file cannot be used.
        MissingDependencyError: neither httpx2 nor httpx is installed, and there is a server.
    """
    if target is None:
        return None
    queue = Queue(waits.max_queue, waits.max_queue_bytes, drop_oldest=waits.drop_oldest)
    ledger = Ledger()
    if isinstance(target, Dsn):
        direct = HttpDestination(Sender(target, ledger, http.connection(target)), queue.pause)
        destination: Destination = (
            direct if keeps.outbox is None else _by_outbox(target, keeps, direct, ledger)
        )
    elif keeps.outbox is None:
        path = sqlite_path(target) or ""
        destination = SqliteStore(path, max_reports=keeps.max_reports, max_age=keeps.max_age)
    else:
        raise ConfigurationError(
            "outbox= needs the DSN of a server, as a file needs no other one: leave it out"
        )
    transport = QueuedTransport(destination, queue, ledger, shutdown_timeout=waits.shutdown_timeout)
    destination.resume()
    return transport


def _by_outbox(
    dsn: Dsn, keeps: FileOptions, direct: HttpDestination, ledger: Ledger
) -> OutboxDestination:
    kept, outbox = Kept(ledger), _outbox(keeps, dsn.public)
    return OutboxDestination(outbox, Forwarder(outbox, direct.sender, kept), kept, direct)


def _outbox(keeps: FileOptions, target: str) -> Holding:
    name = keeps.outbox or ""
    if not is_engine(name):
        return Outbox(name, target, bounds=keeps.bounds())
    from usercontext.sentry.delivery.shared_outbox import SharedOutbox

    bounds = EngineBounds(keeps.max_reports, keeps.max_outbox_bytes, keeps.max_age)
    return SharedOutbox(name, target, bounds=bounds)


class OpenOutbox:
    """What waits in an outbox for a server, to be sent when it is told to.

    How long a report may wait is known to the app alone, so none is deleted for its age.

    Args:
        path: the file.
        target: the server's DSN as it stands in the file.
    """

    def __init__(self, path: str | os.PathLike[str], target: str) -> None:
        dsn = Dsn(target)
        self.outbox: Outbox = Outbox(path, target, bounds=Bounds(max_age=inf))
        self.ledger: Ledger = Ledger()
        self._sender = Sender(dsn, self.ledger, HttpOptions().connection(dsn))
        self._forwarder = Forwarder(self.outbox, self._sender, Kept(self.ledger))

    def send_all(self) -> Iterator[int]:
        """Send what waits; yield how many reports are left, after each.

        Ends when there are none, or when the server or the file cannot be reached.
        """
        return self._forwarder.send_all()

    def close(self) -> None:
        """Leave what is left to whoever comes next."""
        self._forwarder.stop(0.0)
        self._forwarder.release()
