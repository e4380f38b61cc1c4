"""Sends the reports of a file to a server: each once, under its own id and time, and resumable."""

from __future__ import annotations

from contextlib import closing
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from usercontext.inspector.answers import advice, is_about_the_dsn
from usercontext.inspector.index import connect_to_write
from usercontext.sentry.delivery.build import HttpOptions
from usercontext.sentry.delivery.compression import compressed
from usercontext.sentry.delivery.envelope import build_envelope
from usercontext.sentry.delivery.network import NetworkError
from usercontext.sentry.delivery.rate_limits import RateLimits
from usercontext.sentry.delivery.report_file import existing_file

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Iterator

    from usercontext.sentry.dsn import Dsn

__all__ = ["Sent", "send_reports"]

# In the file, so that what was sent is known whatever ends the sending. A report that is deleted
# is forgotten here, too.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sent_reports (
    event_id TEXT NOT NULL, target TEXT NOT NULL, status INTEGER NOT NULL,
    PRIMARY KEY (event_id, target)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS sent_reports_forget AFTER DELETE ON reports BEGIN
    DELETE FROM sent_reports WHERE event_id = OLD.event_id;
END;
"""
_LEFT = """
SELECT rowid, event_id FROM reports WHERE NOT EXISTS (
    SELECT 1 FROM sent_reports s WHERE s.event_id = reports.event_id AND s.target = ?)
ORDER BY timestamp, rowid
"""
_PAUSES = (0.5, 2.0, 5.0)
_WAIT_SECONDS = 0.5


class Sent(NamedTuple):
    """How far it has come."""

    total: int
    sent: int
    #: Of those that the server did not take: how many, by its answer.
    refused: dict[int, int]
    #: Why it goes no further; empty as long as it does.
    trouble: str
    is_waiting: bool = False

    @property
    def left(self) -> int:
        """How many are still to be sent."""
        return self.total - self.sent - sum(self.refused.values())


def send_reports(path: str, dsn: Dsn) -> Iterator[Sent]:
    """Send what the server has not been sent yet, the oldest first; yield how far it has come.

    Raises:
        ConfigurationError: there is no such file, or it holds no reports of its own.
    """
    with closing(connect_to_write(existing_file(path))) as connection:
        connection.executescript(_SCHEMA)
        yield from _Sending(connection, dsn).run()


class _Sending:
    """One run."""

    def __init__(self, connection: sqlite3.Connection, dsn: Dsn) -> None:
        self._file = connection
        self._dsn = dsn
        self._server = HttpOptions().connection(dsn)
        self._limits = RateLimits()
        self._rows = connection.execute(_LEFT, (str(dsn),)).fetchall()
        self._sent = 0
        self._refused: dict[int, int] = {}

    def run(self) -> Iterator[Sent]:
        with closing(self._server):
            yield self._far()
            for row, event_id in self._rows:
                payload = self._payload(row, event_id)
                if payload is None:
                    continue  # Meanwhile the app has deleted it to make room.
                status = yield from self._post(event_id, payload)
                if status is None:
                    yield self._far("the server cannot be reached now")
                    return
                if is_about_the_dsn(status) or status >= 500:
                    yield self._far(f"the server answered {status}: {advice(status)}")
                    return
                self._note(event_id, status)
                yield self._far()

    def _far(self, trouble: str = "", *, is_waiting: bool = False) -> Sent:
        refused = dict(self._refused)
        return Sent(len(self._rows), self._sent, refused, trouble, is_waiting)

    def _payload(self, row: int, event_id: str) -> bytes | None:
        query = "SELECT payload FROM reports WHERE rowid = ? AND event_id = ?"
        found = self._file.execute(query, (row, event_id)).fetchone()
        return None if found is None else found[0].encode()

    def _post(self, event_id: str, payload: bytes) -> Generator[Sent, None, int | None]:
        """Post a report, and again when the server asks to wait; return its answer at last."""
        while True:
            status = self._exchange(event_id, payload)
            if status != 429:
                return status
            while self._limits.is_limited(monotonic()):
                yield self._far(is_waiting=True)
                sleep(_WAIT_SECONDS)

    def _exchange(self, event_id: str, payload: bytes) -> int | None:
        """Return the server's answer; None if there is none, however often it is tried."""
        body, encoding = compressed(build_envelope(event_id, payload, dsn=self._dsn.public))
        for pause in (*_PAUSES, 0.0):
            try:
                status, headers = self._server.exchange(body, encoding)
            except NetworkError:
                sleep(pause)
            else:
                self._limits.update(status, headers, monotonic())
                return status
        return None

    def _note(self, event_id: str, status: int) -> None:
        if 200 <= status < 300:
            self._sent += 1
        else:
            self._refused[status] = self._refused.get(status, 0) + 1
        self._file.execute(
            "INSERT OR REPLACE INTO sent_reports VALUES (?, ?, ?)",
            (event_id, str(self._dsn), status),
        )
