"""Keeps reports in an SQLite file: the default of demo and development."""

from __future__ import annotations

import sqlite3
from itertools import chain
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import failure
from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.database import Database, open_to_write
from usercontext.sentry.delivery.destination import Destination, encoded
from usercontext.sentry.delivery.report_file import (
    BATCH,
    BATCH_BYTES,
    BATCH_SECONDS,
    check_writable,
    described,
    make_table,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from usercontext.types import Event

__all__ = ["SqliteStore"]

_INSERT = """
INSERT OR IGNORE INTO reports (event_id, timestamp, identity, payload) VALUES (?, ?, ?, ?)
"""


class SqliteStore(Destination):
    """Writes each event to a file; oldest reports make room.

    A report is visible to every reader once `flush()` has returned True. The file is made
    readable by its owner alone.

    Args:
        path: the file; its directory must exist.
        max_reports: how many reports are kept.
        max_age: how many seconds a report is kept.

    Raises:
        ConfigurationError: the file cannot be written, or is not an SQLite database.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_reports: int, max_age: float) -> None:
        self.database: Database = Database(path, self._open)
        self._max_reports = max_reports
        self._max_age = max_age
        self._lost_one = False
        check_writable(self.database.path)
        try:
            with self.database.transaction():
                pass  # Now rather than when the first report is kept.
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(f"{self.database.path} cannot be used: {error}") from error
        self.database.close()

    def deliver(self, event: Event, more: Callable[[], Event | None]) -> list[str | None]:
        """Write all that waits in one transaction, as far as it is not too much for one."""
        written: list[bool] = []
        rows = self._rows(event, more, written)
        if not self._write(rows):
            return ["send_error"] * len(written)
        return [None if is_written else "send_error" for is_written in written]

    def _rows(
        self, event: Event, more: Callable[[], Event | None], written: list[bool]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows, and note of each event whether there is one."""
        size, until = 0, inf
        following: Event | None = event
        while following is not None:
            payload = encoded(following)
            written.append(payload is not None)
            if payload is not None:
                size += len(payload)
                yield (*described(following), payload.decode())
                until = min(until, monotonic() + BATCH_SECONDS)  # The file is ours since then.
            if len(written) >= BATCH or size > BATCH_BYTES or monotonic() > until:
                return
            following = more()

    def _write(self, rows: Iterator[tuple[Any, ...]]) -> bool:
        first = next(rows, None)  # before anything is locked
        if first is None:
            return True
        try:
            with self.database.transaction() as connection:
                for row in chain((first,), rows):
                    connection.execute(_INSERT, row)
                self.prune(connection)
        except (sqlite3.Error, OSError):
            self._lost_one = True
            self.release()
            failure(
                f"SQLite store {self.database.path}",
                "usercontext cannot write to %s and drops reports until it can",
                self.database.path,
            )
            return False
        return True

    def settle(self, deadline: float) -> bool:
        """Return whether all is written; False once if something could not be."""
        del deadline
        lost_one, self._lost_one = self._lost_one, False
        return not lost_one

    def release(self) -> None:
        """Close the file."""
        self.database.close()

    def before_fork(self) -> None:
        """Close the file while this process forks."""
        self.database.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let the thread write again."""
        self.database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connection alone."""
        self.database.after_fork_in_child()
        self._lost_one = False

    def _open(self, seconds: float) -> sqlite3.Connection:
        return open_to_write(self.database.path, seconds, make_table)

    def prune(self, connection: sqlite3.Connection) -> None:
        """Delete what is too much or too old."""
        # Row ids have no gaps but at the old end, so this needs no count of all rows.
        connection.execute(
            "DELETE FROM reports WHERE rowid <= (SELECT max(rowid) FROM reports) - ?",
            (self._max_reports,),
        )
        connection.execute("DELETE FROM reports WHERE timestamp < ?", (time() - self._max_age,))
