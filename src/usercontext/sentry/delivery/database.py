"""One process's connection to an SQLite file: shared by threads, closed around forks."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Database", "connect", "inode", "open_to_write"]

_BUSY_SECONDS = 5.0
_FORK_SECONDS = 1.0
# What a thread in a hurry waits at least: another one of ours may be in the middle of a write.
_LEAST_SECONDS = 0.1
_RETRY_SECONDS = 0.01


class _Hurry(threading.local):
    """Until when a thread may wait for a file; of `monotonic()`."""

    deadline: float | None = None


class Database:
    """One process's connection to a file, which its threads use one after the other.

    Args:
        path: the file.
        open_file: opens it, making it if need be; given for how many seconds it may wait for
            other processes.

    Attributes:
        path: the file; absolute, as the app may change its working directory later.
        inode: of the file that was opened last; 0 before.
    """

    def __init__(
        self, path: str | os.PathLike[str], open_file: Callable[[float], sqlite3.Connection]
    ) -> None:
        self.path: Path = Path(path).absolute()
        self.inode: int = 0
        self._open = open_file
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._busy_seconds = 0.0
        self._hurry = _Hurry()
        self._abandoned: list[object] = []
        self._forking = 0

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

    def close(self) -> None:
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
                self.close()

    def after_fork_in_parent(self) -> None:
        """Let the other threads write again."""
        if self._forking == threading.get_ident():
            self._forking = 0
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Keep the parent's connection unused: SQLite forbids even closing it in a child."""
        if self._connection is not None:
            self._abandoned.append(self._connection)
            self._connection = None
        self._lock = threading.RLock()
        self._forking = 0

    def _connected(self) -> sqlite3.Connection:
        """Return the connection, a new one if the file was deleted or replaced."""
        if self._connection is not None and inode(self.path) != self.inode:
            self.close()
        seconds = self._patience(_BUSY_SECONDS)
        if self._connection is None:
            self._connection = self._open(seconds)
            self.inode = inode(self.path)
            self._busy_seconds = seconds
        elif seconds != self._busy_seconds:
            _wait_at_most(self._connection, seconds)
            self._busy_seconds = seconds
        return self._connection

    def _patience(self, usual: float) -> float:
        """Return how many seconds this thread may wait."""
        deadline = self._hurry.deadline
        if deadline is None:
            return usual
        return min(usual, max(_LEAST_SECONDS, deadline - monotonic()))


def connect(path: Path, mode: str, timeout: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Open a file that exists: `ro` or `rw`."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        # Opened and closed by whichever thread delivers, never used by two at once.
        check_same_thread=False,
    )


def open_to_write(
    path: Path, seconds: float, prepare: Callable[[sqlite3.Connection], object]
) -> sqlite3.Connection:
    """Open a file, made readable by its owner alone; fail if it cannot be written.

    Args:
        path: the file.
        seconds: how long to wait for other processes, now and with each statement.
        prepare: makes the tables that are not there yet.
    """
    _create_private(path)
    connection = connect(path, "rw", 0.0)
    try:
        _check_writes(connection)
        _wait_at_most(connection, seconds)
        _write_ahead(connection, seconds)
        connection.execute("PRAGMA synchronous = NORMAL")
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def inode(path: Path) -> int:
    """Return what tells a file from one that took its place; 0 without a file."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _create_private(path: Path) -> None:
    # Reports name people: for the owner alone, whatever the umask. Nothing is opened that exists:
    # a file that this process has open elsewhere loses its locks (POSIX) as soon as the process
    # closes any other handle of it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _check_writes(connection: sqlite3.Connection) -> None:
    """Fail if the file cannot be written: SQLite would open it to read, and keep it open."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA user_version = 0")  # BEGIN alone fails for nobody.
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
        # Somebody writes right now, so it can be done.


def _write_ahead(connection: sqlite3.Connection, seconds: float) -> None:
    """Switch a new file to a write-ahead log.

    SQLite's own timeout does not count here: it gives up at once while anybody else writes to
    the file, as the workers of a server do that start together.
    """
    until = monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or monotonic() > until:
                raise
            sleep(_RETRY_SECONDS)
        else:
            return


def _wait_at_most(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _is_busy(error: sqlite3.Error) -> bool:
    # The lowest byte: the others tell details.
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
