"""Keeps reports in an SQLite file: the default of demo and development.

Table `reports(event_id TEXT PRIMARY KEY, timestamp REAL, identity TEXT, payload TEXT)`, the
payload being the event's JSON. Any number of processes may write and read at once.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import failure, warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.sentry.background import BackgroundTransport
from usercontext.sentry.dsn import sqlite_path
from usercontext.sentry.payload import encode_event

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = ["SqliteStore", "follow_reports", "read_reports"]

_HEADER = b"SQLite format 3\0"
_BUSY_SECONDS = 5.0
_FORK_SECONDS = 1.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reports (
    event_id TEXT PRIMARY KEY,
    timestamp REAL NOT NULL,
    identity TEXT,
    payload TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS reports_by_timestamp ON reports (timestamp);
CREATE INDEX IF NOT EXISTS reports_by_identity ON reports (identity);
"""
_IDENTITY_PREFIXES = (
    ("id", "id"),
    ("username", "username"),
    ("email", "email"),
    ("ip_address", "ip"),
)


class SqliteStore(BackgroundTransport):
    """Writes each event to a file, from a background thread; oldest reports make room.

    A report is visible to every reader once `flush()` has returned True. The file is made
    readable by its owner alone.

    Args:
        path: the file; its directory must exist.
        max_reports: how many reports are kept.
        max_age: how many seconds a report is kept.
        **queue: the options of `BackgroundTransport`.

    Raises:
        ConfigurationError: the file cannot be written, or is no SQLite database.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_reports: int = 10_000,
        max_age: float = 30 * 86_400.0,
        **queue: Any,
    ) -> None:
        # Absolute: the app may change its working directory later.
        self._path = Path(path).absolute()
        self._max_reports = max_reports
        self._max_age = max_age
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._abandoned: list[object] = []
        self._lost_one = False
        self._file = threading.RLock()
        self._forking = 0
        _check_writable(self._path)
        try:
            self._open().close()
        except sqlite3.Error as error:
            raise ConfigurationError(f"{self._path} cannot be used: {error}") from error
        super().__init__(**queue)

    def deliver(self, event: Event) -> str | None:
        """Write one event and commit; return None, or why it was discarded."""
        payload = encode_event(event)
        if payload is None:
            warn_once("event size", "usercontext dropped a report of more than 1 MiB")
            return "send_error"
        row = (event["event_id"], _timestamp(event), _identity(event), payload.decode())
        try:
            with self._file:
                self._write(row)
        except (sqlite3.Error, OSError):
            self._lost_one = True
            self.release()
            failure(
                f"SQLite store {self._path}",
                "usercontext cannot write to %s and drops reports until it can",
                self._path,
            )
            return "send_error"
        return None

    def release(self) -> None:
        """Close the file."""
        with self._file:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()

    def abandon(self) -> None:
        """Keep the parent's connection unused: SQLite forbids even closing it in a child."""
        if self._connection is not None:
            self._abandoned.append(self._connection)
            self._connection = None
        self._file = threading.RLock()
        self._lost_one = False
        self._forking = 0

    def before_fork(self) -> None:
        """Wait for the write under way, and close the file.

        SQLite remembers per process what is locked: a child forked while the file is open finds
        it locked for ever, by a connection that it cannot close.
        """
        if self._file.acquire(timeout=_FORK_SECONDS):
            self._forking = threading.get_ident()
            self._release_safely()

    def after_fork_in_parent(self) -> None:
        """Let the background thread write again."""
        if self._forking == threading.get_ident():
            self._forking = 0
            self._file.release()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all that was submitted before is written; False also if one could not be."""
        in_time = super().flush(timeout)
        lost_one, self._lost_one = self._lost_one, False
        return in_time and not lost_one

    def _write(self, row: tuple[str, float, str | None, str]) -> None:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("INSERT OR IGNORE INTO reports VALUES (?, ?, ?, ?)", row)
            self._prune(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _prune(self, connection: sqlite3.Connection) -> None:
        # Row ids have no gaps but at the old end, so this needs no count of all rows.
        connection.execute(
            "DELETE FROM reports WHERE rowid <= (SELECT max(rowid) FROM reports) - ?",
            (self._max_reports,),
        )
        connection.execute("DELETE FROM reports WHERE timestamp < ?", (time() - self._max_age,))

    def _connected(self) -> sqlite3.Connection:
        """Return the thread's connection, a new one if the file was deleted or replaced."""
        if self._connection is not None and _inode(self._path) != self._inode:
            self.release()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        _create_private(self._path)
        connection = _connect(self._path, "rw")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        self._inode = _inode(self._path)
        return connection


def read_reports(
    path: str | os.PathLike[str], *, until: int | None = None
) -> Iterator[dict[str, Any]]:
    """Return an iterator of the events kept in a file, oldest first.

    Args:
        path: the file, or the `sqlite:///` DSN that names it.
        until: a mark of `follow_reports`: nothing that was written after it.

    Raises:
        ConfigurationError: there is no such file, or it does not hold reports.
    """
    file = existing_file(path)
    with closing(_connect_to_read(file)):
        pass  # Now rather than when the first report is asked for.
    return _events(file, sys.maxsize if until is None else until)


def follow_reports(
    path: str | os.PathLike[str], after: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Return the events written after a mark, and the mark to go on from.

    Without a mark, no events: only what is written from now on is asked for.
    """
    file = existing_file(path)
    with closing(_connect_to_read(file)) as connection:
        if after is None:
            (mark,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM reports").fetchone()
            return [], mark
        rows = connection.execute(
            "SELECT rowid, payload FROM reports WHERE rowid > ? ORDER BY rowid", (after,)
        ).fetchall()
    return [json.loads(payload) for _, payload in rows], rows[-1][0] if rows else after


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an SQLite file that exists, of a path or a DSN.

    Raises:
        ConfigurationError: there is none.
    """
    named = sqlite_path(path) if isinstance(path, str) else None
    file = Path(path if named is None else named)
    if not file.is_file():
        raise ConfigurationError(
            f"there is no file {str(file)!r}: give the path that stands after sqlite:/// in the DSN"
        )
    _check_header(file)
    return file


def _events(file: Path, until: int) -> Iterator[dict[str, Any]]:
    """Yield the events in short reads: an open one would keep SQLite from tidying up."""
    with closing(_connect_to_read(file)) as connection:
        rows = connection.execute(
            "SELECT rowid FROM reports WHERE rowid <= ? ORDER BY timestamp, rowid", (until,)
        ).fetchall()
        for row in rows:
            found = connection.execute("SELECT payload FROM reports WHERE rowid = ?", row)
            for (payload,) in found.fetchall():
                yield json.loads(payload)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        # Opened and closed by whichever thread delivers, never used by two at once.
        check_same_thread=False,
    )


def _connect_to_read(file: Path) -> sqlite3.Connection:
    connection = _connect(file, "ro")
    try:
        connection.execute("SELECT event_id, timestamp, identity, payload FROM reports LIMIT 0")
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{str(file)!r} does not hold reports: {error}") from error
    return connection


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise ConfigurationError(f"{str(path)!r} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"the directory {str(path.parent)!r} does not exist: make it, or name a file elsewhere"
        )
    # SQLite makes files of its own beside the database, so the directory counts even if it exists.
    for needed in (path.parent, path):
        if needed.exists() and not os.access(needed, os.W_OK):
            raise ConfigurationError(
                f"{str(needed)!r} cannot be written by this process: "
                "change its permissions, or name a file elsewhere"
            )
    if path.exists():
        _check_header(path)


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if header and header != _HEADER:
        raise ConfigurationError(
            f"{str(path)!r} is no SQLite database: move it away, or name another file"
        )


def _create_private(path: Path) -> None:
    # Reports name people: for the owner alone, whatever the umask.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _timestamp(event: Event) -> float:
    timestamp = event.get("timestamp")
    return timestamp if isinstance(timestamp, float) else time()


def _identity(event: Event) -> str | None:
    """Return what the server would count the event's user by."""
    user = event.get("user")
    if not isinstance(user, Mapping):
        return None
    for field, prefix in _IDENTITY_PREFIXES:
        if user.get(field):
            return f"{prefix}:{user[field]}"
    return None
