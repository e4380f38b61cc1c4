"""SQLite files of reports: their table, and how one is found and read.

Table `reports(event_id TEXT PRIMARY KEY, timestamp REAL, identity TEXT, payload TEXT)`, the
payload being the event's JSON. Any number of processes may write and read at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.database import connect
from usercontext.sentry.dsn import sqlite_path
from usercontext.user import identity_in

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = [
    "BATCH",
    "BATCH_BYTES",
    "BATCH_SECONDS",
    "check_writable",
    "connect_to_read",
    "described",
    "existing_file",
    "make_table",
]

#: How many reports, and about how many bytes of them, are written or read in one step.
BATCH = 64
BATCH_BYTES = 1 << 20
#: For about how long a step may lock the file.
BATCH_SECONDS = 0.01

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


def make_table(connection: sqlite3.Connection) -> None:
    """Make the table of reports, if it is not there yet."""
    connection.executescript(_SCHEMA)


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


def described(event: Event) -> tuple[str, float, str | None]:
    """Return the columns of an event before its payload: id, timestamp and identity."""
    return event["event_id"], _timestamp(event), _identity(event)


def _timestamp(event: Event) -> float:
    """Return when an event happened; now, if it does not say."""
    value = event.get("timestamp")
    return value if isinstance(value, float) else time()


def _identity(event: Event) -> str | None:
    """Return what the server would count the event's user by."""
    user = event.get("user")
    return identity_in(user) if isinstance(user, Mapping) else None


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
                f"{str(path)!r} is not an SQLite database, or a damaged one: "
                "move it away, or name another file"
            ) from error
        if not os.access(path, os.R_OK):
            raise ConfigurationError(
                f"{str(path)!r} cannot be read by this process: change its permissions"
            ) from error
