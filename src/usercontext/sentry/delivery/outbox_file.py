"""The file of an outbox: made when it is first opened, and set aside if it is corrupt."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import time

from usercontext.diagnostics import failure, warn_once
from usercontext.sentry.delivery.database import Database, inode, open_to_write
from usercontext.sentry.delivery.directory_lock import directory_lock
from usercontext.sentry.delivery.report_file import check_writable, make_table

__all__ = ["FILE_ERRORS", "OutboxFile", "is_corrupt"]

#: What using the file raises when it cannot be used.
FILE_ERRORS = (sqlite3.Error, OSError)

_ATTEMPTS = 3
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COLUMNS = {"target": "TEXT", "owner": "TEXT"}
_SCHEMA = """
CREATE INDEX IF NOT EXISTS reports_by_owner ON reports (owner, target);
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, until REAL NOT NULL);
"""


class OutboxFile:
    """One process's hold of an outbox's file.

    Args:
        path: the file; its directory must exist. One that is not a database is set aside.

    Raises:
        ConfigurationError: there can be no file of that name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.database: Database = Database(path, self._open)
        self.path: Path = self.database.path
        check_writable(self.path, any_content=True)

    def set_aside(self) -> None:
        """Rename a file that turned out to be corrupt, and begin a new one; nothing is deleted.

        One that took its place meanwhile stays: another process was faster.
        """
        self._set_aside(self.database.inode)

    def failed(self) -> None:
        """Say once that the file cannot be used, and close it."""
        failure(
            f"outbox {self.path}",
            "usercontext cannot use the outbox %s, and sends without it until it can",
            self.path,
        )
        try:
            self.database.close()
        except FILE_ERRORS:
            failure(
                f"closing outbox {self.path}", "usercontext cannot close the outbox %s", self.path
            )

    def _open(self, seconds: float) -> sqlite3.Connection:
        for _ in range(_ATTEMPTS):
            found = inode(self.path)
            try:
                return self._open_unmoved(seconds)
            except sqlite3.DatabaseError as error:
                if is_corrupt(error):
                    self._set_aside(found)
                elif inode(self.path) == found:
                    raise  # Else another process has just set it aside.
        return self._open_unmoved(seconds)

    def _open_unmoved(self, seconds: float) -> sqlite3.Connection:
        with directory_lock(self.path.parent, alone=False):
            return open_to_write(self.path, seconds, _prepare)

    def _set_aside(self, found: int) -> None:
        self.database.close()
        aside = self.path.with_name(f"{self.path.name}.corrupt-{int(time())}-{os.getpid()}")
        with directory_lock(self.path.parent, alone=True):
            if inode(self.path) != found:
                return
            for suffix in ("", "-wal", "-shm"):
                file = Path(f"{self.path}{suffix}")
                if file.exists():
                    file.replace(f"{aside}{suffix}")
        warn_once(
            f"corrupt outbox {self.path}",
            "the outbox %s is corrupt: it is set aside as %s, and a new one is begun",
            self.path,
            aside,
        )


def is_corrupt(error: BaseException) -> bool:
    """Return whether SQLite found a file to be damaged, or not to be a database at all."""
    # The lowest byte: the others tell details.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the columns and tables that are not there yet."""
    make_table(connection)
    connection.execute("PRAGMA journal_size_limit = 4194304")
    connection.execute("PRAGMA cache_size = -512")  # KiB; rows are read once, in order.
    connection.execute("BEGIN IMMEDIATE")
    there = {row[1] for row in connection.execute("PRAGMA table_info(reports)")}
    for name, kind in _COLUMNS.items():
        if name not in there:
            connection.execute(f"ALTER TABLE reports ADD COLUMN {name} {kind}")
    connection.execute("COMMIT")
    connection.executescript(_SCHEMA)
