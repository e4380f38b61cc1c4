"""An SQLite file of reports: opened privately, shared by processes, closed around forks.

Table `reports(event_id TEXT PRIMARY KEY, timestamp REAL, identity TEXT, payload TEXT)`, the
payload being the event's JSON. Any number of processes may write and read at once.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING

from usercontext.exceptions import ConfigurationError
from usercontext.sentry.dsn import sqlite_path

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = [
    "ReportFile",
    "check_writable",
    "connect",
    "connect_to_read",
    "existing_file",
    "identity",
    "inode",
    "timestamp",
]

_BUSY_SECONDS = 5.0
_FORK_SECONDS = 1.0
# What a thread in a hurry waits at least: another one of ours may be in the middle of a write.
_LEAST_SECONDS = 0.1
_RETRY_SECONDS = 0.01
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


class _Hurry(threading.local):
    """Until when a thread may wait for a file; of `monotonic()`."""

    deadline: float | None = None


class ReportFile:
    """One process's connection to a file, which its threads use one after the other.

    Args:
        path: the file; made, readable by its owner alone, when it is first opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Absolute: the app may change its working directory later.
        self.path: Path = Path(path).absolute()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._busy_seconds = 0.0
        self._hurry = _Hurry()
        self._abandoned: list[object] = []
        self._forking = 0

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables that are not there yet."""
        connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in a block: all of it is committed, or, if it raises, nothing."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Use the connection in a block, while no other thread does."""
        if not self._lock.acquire(timeout=self._patience(threading.TIMEOUT_MAX)):
            raise sqlite3.OperationalError("another thread waits for the file")
        try:
            yield self._connected()
        finally:
            self._lock.release()

    @contextmanager
    def in_a_hurry(self, deadline: float) -> Iterator[None]:
        """Let this thread wait in a block, for other threads and processes, until then alone.

        Each use of the file is tried, however late it is.
        """
        before, self._hurry.deadline = self._hurry.deadline, deadline
        try:
            yield
        finally:
            self._hurry.deadline = before

    def __del__(self) -> None:
        # From Python 3.13 on, a connection that is merely dropped warns.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()

    def release(self) -> None:
        """Close the file; one that another thread waits for is left to that, in a hurry."""
        if not self._lock.acquire(timeout=self._patience(threading.TIMEOUT_MAX)):
            return
        try:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close()
        finally:
            self._lock.release()

    # Around a fork: SQLite remembers per process what is locked, so a child forked while the
    # file is open finds it locked for ever, by a connection that it cannot close.

    def before_fork(self) -> None:
        """Wait for the write under way, and close the file."""
        if self._lock.acquire(timeout=_FORK_SECONDS):
            self._forking = threading.get_ident()
            with suppress(sqlite3.Error):
                self.release()

    def after_fork_in_parent(self) -> None:
        """Let the other threads write again."""
        if self._forking == threading.get_ident():
            self._forking = 0
            self._lock.release()

    def abandon(self) -> None:
        """Keep the parent's connection unused: SQLite forbids even closing it in a child."""
        if self._connection is not None:
            self._abandoned.append(self._connection)
            self._connection = None
        self._lock = threading.RLock()
        self._forking = 0

    def _connected(self) -> sqlite3.Connection:
        """Return the connection, a new one if the file was deleted or replaced."""
        if self._connection is not None and inode(self.path) != self._inode:
            self.release()
        if self._connection is None:
            self._connection = self._open()
        self._wait_at_most(self._connection, self._patience(_BUSY_SECONDS))
        return self._connection

    def _patience(self, usual: float) -> float:
        """Return how many seconds this thread may wait."""
        deadline = self._hurry.deadline
        if deadline is None:
            return usual
        return min(usual, max(_LEAST_SECONDS, deadline - monotonic()))

    def _wait_at_most(self, connection: sqlite3.Connection, seconds: float) -> None:
        if seconds != self._busy_seconds:
            connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self._busy_seconds = seconds

    def _open(self) -> sqlite3.Connection:
        _create_private(self.path)
        self._busy_seconds = self._patience(_BUSY_SECONDS)
        connection = connect(self.path, "rw", self._busy_seconds)
        try:
            self._check_writes(connection)
            self._write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            self.prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._inode = inode(self.path)
        return connection

    def _check_writes(self, connection: sqlite3.Connection) -> None:
        """Fail if the file cannot be written: SQLite would open it to read, and keep it open."""
        patience = self._busy_seconds
        self._wait_at_most(connection, 0.0)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA user_version = 0")  # BEGIN alone fails for nobody.
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            # Somebody writes right now, so it can be done.
        self._wait_at_most(connection, patience)

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch a new file to a write-ahead log.

        SQLite's own timeout does not count here: it gives up at once while anybody else writes to
        the file, as the workers of a server do that start together.
        """
        until = monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or monotonic() > until:
                    raise
                sleep(_RETRY_SECONDS)
            else:
                return


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


def connect(path: Path, mode: str, timeout: float | None = None) -> sqlite3.Connection:
    """Open a file that exists: `ro` or `rw`."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS if timeout is None else timeout,
        isolation_level=None,
        # Opened and closed by whichever thread delivers, never used by two at once.
        check_same_thread=False,
    )


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Open a file to read its reports.

    Raises:
        ConfigurationError: it has none.
    """
    connection = connect(file, "ro")
    try:
        connection.execute("SELECT event_id, timestamp, identity, payload FROM reports LIMIT 0")
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{str(file)!r} does not hold reports: {error}") from error
    return connection


def check_writable(path: Path, *, any_content: bool = False) -> None:
    """Refuse a file that cannot be written, or whose content is something else's.

    Raises:
        ConfigurationError: says why, and what to do.
    """
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
    if path.exists() and not any_content:
        _check_header(path)


def timestamp(event: Event) -> float:
    """Return when an event happened; now, if it does not say."""
    value = event.get("timestamp")
    return value if isinstance(value, float) else time()


def identity(event: Event) -> str | None:
    """Return what the server would count the event's user by."""
    user = event.get("user")
    if not isinstance(user, Mapping):
        return None
    for field, prefix in _IDENTITY_PREFIXES:
        if user.get(field):
            return f"{prefix}:{user[field]}"
    return None


def _check_header(path: Path) -> None:
    # By SQLite's own hand: a file that this process has open elsewhere loses its locks (POSIX) as
    # soon as the process closes any other handle of it, and the next program to close the file
    # would delete the log that we write to.
    try:
        with closing(connect(path, "ro", 0.0)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError(
                f"{str(path)!r} is no SQLite database, or a damaged one: "
                "move it away, or name another file"
            ) from error
        if not os.access(path, os.R_OK):
            raise ConfigurationError(
                f"{str(path)!r} cannot be read by this process: change its permissions"
            ) from error


def _create_private(path: Path) -> None:
    # Reports name people: for the owner alone, whatever the umask. Nothing is opened that exists,
    # for the reason of `_check_header`.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _is_busy(error: sqlite3.Error) -> bool:
    # The lowest byte: the others tell details.
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def inode(path: Path) -> int:
    """Return what tells a file from one that took its place; 0 without a file."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0
