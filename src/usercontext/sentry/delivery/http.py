"""Sends events to a server: envelopes, tries, and what the server answers."""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING

from usercontext.diagnostics import error_once, warn_once
from usercontext.sentry.delivery.compression import compressed
from usercontext.sentry.delivery.destination import Destination, encoded
from usercontext.sentry.delivery.envelope import (
    build_envelope,
    split_discarded,
)
from usercontext.sentry.delivery.ledger import UNREPORTED_BACKOFF
from usercontext.sentry.delivery.network import NetworkError
from usercontext.sentry.delivery.pace import Pace
from usercontext.sentry.delivery.rate_limits import RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.sentry.delivery.connection import ServerConnection
    from usercontext.sentry.delivery.ledger import Ledger
    from usercontext.sentry.dsn import Dsn
    from usercontext.types import Event

__all__ = ["HttpDestination", "Sender"]

_RETRY_SECONDS = (0.5, 2.0)


class Sender:
    """Posts events to a DSN's server, each once, and heeds what it answers.

    Answers of 400 and above are final, as the protocol asks.

    Args:
        dsn: the server and project.
        ledger: what is discarded, of which the server is told.
        connection: the way to the server.

    Attributes:
        ledger: what is discarded.
        limits: what the server has asked for.
        is_down: whether the network failed when it was last tried.
    """

    def __init__(self, dsn: Dsn, ledger: Ledger, connection: ServerConnection) -> None:
        self.connection: ServerConnection = connection
        self.limits: RateLimits = RateLimits()
        self.is_down: bool = False
        self._dsn = dsn
        self.ledger: Ledger = ledger

    def is_limited(self) -> bool:
        """Return whether the server wants to hear nothing now."""
        return self.limits.is_limited(monotonic())

    def post(self, event_id: str, payload: bytes) -> str | None:
        """Post the JSON of an event; return None, or why it was discarded.

        Raises:
            NetworkError: there was no answer.
        """
        discarded, later = split_discarded(self.ledger.take_unreported())
        self.ledger.give_back(later)
        body = build_envelope(event_id, payload, dsn=self._dsn.public, discarded=discarded)
        try:
            status, answered = self.connection.exchange(*compressed(body))
        except BaseException:
            self.ledger.give_back(discarded)
            raise
        self.is_down = False
        self.limits.update(status, answered, monotonic())
        return self._judge(status)

    def failed(self, error: NetworkError, meanwhile: str, *args: object) -> None:
        """Say, once for each reason, that the network failed, and what is done meanwhile."""
        self.is_down = True
        place = self._dsn.place
        error_once(
            f"network to {place}: {error.reason}",
            f"usercontext cannot reach %s and {meanwhile} until it can: %s",
            place,
            *args,
            error.reason,
        )

    def _judge(self, status: int) -> str | None:
        if 200 <= status < 300:
            return None
        if status == 429:
            return UNREPORTED_BACKOFF
        warn_once(
            f"status {status} of {self._dsn.host}",
            "%s answered %d to a report, which is lost: check the DSN and the server's log",
            self._dsn.host,
            status,
        )
        return "send_error"


class HttpDestination(Destination):
    """Posts each event to a server.

    An event that could not be sent for a reason of the network is tried thrice, the later ones
    once until one gets through.

    Args:
        sender: posts to the server.
        pause: waits for some seconds, or returns False where there is a hurry.
    """

    def __init__(self, sender: Sender, pause: Callable[[float], bool]) -> None:
        self.sender: Sender = sender
        self.pause: Callable[[float], bool] = pause
        self._pace = Pace(sender.ledger.captured)
        self._due = 0.0

    def deliver(self, event: Event, more: Callable[[], Event | None]) -> list[str | None]:
        """Post one event; the others keep their place, so that each answer counts for the next."""
        del more
        if self.sender.is_limited():
            return ["ratelimit_backoff"]
        payload = encoded(event)
        if payload is None:
            return ["send_error"]
        if self._pace.is_catching_up and not self.sender.is_down:
            self._wait_for_turn()
        return [self.post(event["event_id"], payload)]

    def _wait_for_turn(self) -> None:
        """Wait until the next of the events that have queued up may go, after an outage."""
        wait = self._due - monotonic()
        if wait > 0:
            self.pause(wait)
        else:
            self._pace.caught_up()  # It comes later than it might: none has waited.

    def post(self, event_id: str, payload: bytes) -> str | None:
        """Post the JSON of an event, again if need be; return None, or why it was discarded."""
        pauses = iter(() if self.sender.is_down else _RETRY_SECONDS)
        while True:
            begin = monotonic()
            try:
                reason = self.sender.post(event_id, payload)
            except NetworkError as error:
                self._pace.failed()
                pause = next(pauses, None)
                if pause is None:
                    self.sender.failed(error, "drops reports")
                    return "network_error"
            else:
                now = monotonic()
                self._due = now + self._pace.succeeded(now - begin)
                return reason
            self.pause(pause * random.uniform(0.5, 1.0))  # noqa: S311

    def release(self) -> None:
        """Close the connection."""
        self.sender.connection.close()

    def before_fork(self) -> None:
        """Wait until no connection is being made."""
        self.sender.connection.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let connections be made again."""
        self.sender.connection.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave the connection to the parent."""
        self.sender.connection.after_fork_in_child()
