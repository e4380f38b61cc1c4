"""Sends what a shared outbox holds, for all servers: what `usercontext outbox forward` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usercontext.diagnostics import error_once, warn_once
from usercontext.exceptions import ConfigurationError, InvalidDsnError
from usercontext.sentry.delivery.build import HttpOptions
from usercontext.sentry.delivery.engine import EngineError, EngineStatus, engine_address
from usercontext.sentry.delivery.forwarder import Forwarder
from usercontext.sentry.delivery.http import Sender
from usercontext.sentry.delivery.kept import Kept
from usercontext.sentry.delivery.ledger import Ledger
from usercontext.sentry.delivery.shared_outbox import SharedOutbox, engine_at
from usercontext.sentry.dsn import Dsn

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from usercontext.sentry.delivery.engine import Engine

__all__ = ["Forwarding", "TargetStatus", "clear_engine", "engine_status"]

# How often to look for reports, and for servers that are new.
_LOOK_SECONDS = 0.5


class TargetStatus(NamedTuple):
    """What waits for one server."""

    target: str
    held: EngineStatus
    paused: float


class _Line:
    """One server's forwarder."""

    def __init__(self, url: str, target: str, dsn: Dsn) -> None:
        self.target = target
        self.ledger = Ledger()
        self.outbox = SharedOutbox(url, target)
        self._sender = Sender(dsn, self.ledger, HttpOptions().connection(dsn))
        self.forwarder = Forwarder(
            self.outbox, self._sender, Kept(self.ledger), look_seconds=_LOOK_SECONDS
        )


class Forwarding:
    """Forwarders for all servers of an engine, as long as they are wanted; many may be at work.

    Args:
        url: the engine's.
        dsn: the server to send everything to; None: each report to the one that it was kept for.

    Raises:
        ConfigurationError: the URL names no engine, or the engine cannot be used.
        InvalidDsnError: the DSN cannot be used.
        MissingDependencyError: a package is not installed.
    """

    def __init__(self, url: str, dsn: str | None = None) -> None:
        self._url = url
        self._dsn = None if dsn is None else Dsn(dsn)
        self._engine = _opened(url, "")
        self._lines: dict[str, _Line] = {}
        self._targets = _targets_at(url)

    def run(self, ended: threading.Event) -> None:
        """Send until the event is set."""
        while not ended.is_set():
            for line in self._new_lines():
                line.forwarder.start()
            ended.wait(_LOOK_SECONDS)
            try:
                self._targets = self._engine.targets()
            except EngineError as error:
                error_once(
                    f"forwarding {error.reason}",
                    "usercontext cannot use the outbox %s now, and tries again: %s",
                    engine_address(self._url),
                    error.reason,
                )

    def send_all(self) -> None:
        """Send what waits, and end; also when a server or the engine cannot be reached."""
        for line in self._new_lines():
            for _ in line.forwarder.send_all():
                pass

    def close(self, deadline: float) -> None:
        """Stop, until then, of `monotonic()`; what is left waits for others."""
        for line in self._lines.values():
            line.forwarder.stop(deadline)
            with line.outbox.in_a_hurry(deadline):
                line.forwarder.release()
        self._engine.close()

    def stats(self) -> dict[str, dict[str, object]]:
        """Return by server what was sent, and what was discarded for which reason."""
        return {target: line.ledger.stats() for target, line in self._lines.items()}

    def _new_lines(self) -> Iterator[_Line]:
        for target in self._targets:
            if target not in self._lines and (dsn := self._dsn or _dsn_of(target)) is not None:
                self._lines[target] = _Line(self._url, target, dsn)
                yield self._lines[target]


def _dsn_of(target: str) -> Dsn | None:
    try:
        return Dsn(target)
    except InvalidDsnError as error:
        warn_once(f"target {target}", "an outbox names a server that cannot be: %s", error)
        return None


def engine_status(url: str) -> list[TargetStatus]:
    """Return what an engine holds, by server.

    Raises:
        ConfigurationError: the URL names no engine, or the engine cannot be used.
        MissingDependencyError: its package is not installed.
    """
    told = []
    for target in _targets_at(url):
        engine = _opened(url, target)
        try:
            told.append(TargetStatus(target, engine.status(), engine.paused()))
        except EngineError as error:
            raise _cannot_be_used(url, error) from error
        finally:
            engine.close()
    return told


def clear_engine(url: str) -> int:
    """Delete every report that waits, unsent; return how many.

    Raises:
        ConfigurationError: the URL names no engine, or the engine cannot be used.
        MissingDependencyError: its package is not installed.
    """
    cleared = 0
    for target in _targets_at(url):
        engine = _opened(url, target)
        try:
            cleared += engine.clear()
        except EngineError as error:
            raise _cannot_be_used(url, error) from error
        finally:
            engine.close()
    return cleared


def _opened(url: str, target: str) -> Engine:
    return engine_at(engine_address(url), target)


def _targets_at(url: str) -> list[str]:
    engine = _opened(url, "")
    try:
        return engine.targets()
    except EngineError as error:
        raise _cannot_be_used(url, error) from error
    finally:
        engine.close()


def _cannot_be_used(url: str, error: EngineError) -> ConfigurationError:
    place = engine_address(url).place
    return ConfigurationError(f"the outbox {place} cannot be used now: {error.reason}")
