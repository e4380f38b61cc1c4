"""The outbox: reports that wait in an SQLite file for a server that can be reached.

The file is one of reports, with two more columns: the server that each is for, and the process
that is to send it. A process that died leaves what it kept to the others; so that nobody has to
guess, table `owners` says until when each one that lives has promised to be back.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, NamedTuple

from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.directory_lock import directory_lock
from usercontext.sentry.delivery.report_file import (
    ReportFile,
    check_writable,
    connect,
    existing_file,
    identity,
    inode,
    timestamp,
)

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = ["LEASE_SECONDS", "Outbox", "OutboxStatus", "clear_outbox", "is_corrupt", "outbox_status"]

#: How long an owner's promise lasts; it is renewed in a third of that.
LEASE_SECONDS = 60.0

_MAX_BYTES = 64 << 20
_PRUNE_EVERY = 50
_BATCH = 500
_ATTEMPTS = 3
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COLUMNS = {"target": "TEXT", "owner": "TEXT"}
_SCHEMA = """
CREATE INDEX IF NOT EXISTS reports_by_owner ON reports (owner, target);
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, until REAL NOT NULL);
"""
_INSERT = """
INSERT OR IGNORE INTO reports (event_id, timestamp, identity, payload, target, owner)
VALUES (?, ?, ?, ?, ?, ?)
"""
_PROMISE = "INSERT OR REPLACE INTO owners VALUES (?, ?)"
_OLDEST = """
SELECT event_id, payload FROM reports WHERE owner = ? AND target = ? ORDER BY rowid LIMIT 1
"""
_ADOPT = "UPDATE reports SET owner = ? WHERE target = ? AND owner IS ?"
_WAITING = "FROM reports WHERE target IS NOT NULL"


class OutboxStatus(NamedTuple):
    """What an outbox holds."""

    #: How many reports, by the server's DSN.
    waiting: dict[str, int]
    #: How many of them a living process will send.
    claimed: int
    #: How large they are in all, as JSON.
    size: int
    #: When the oldest happened, as seconds since 1970; None without any.
    oldest: float | None


class Outbox(ReportFile):
    """What one process keeps for one server.

    Args:
        path: the file; its directory must exist. One that is no database is set aside.
        target: the server's DSN, without its secret.
        max_reports: how many reports may wait in the file, of all processes; the oldest go.
        max_bytes: how large the file may grow, about.
        max_age: how many seconds a report may wait; what is older is deleted, not sent.

    Raises:
        ConfigurationError: there can be no file of that name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: str,
        *,
        max_reports: int = 10_000,
        max_bytes: int = _MAX_BYTES,
        max_age: float = 30 * 86_400.0,
    ) -> None:
        super().__init__(path)
        self._target = target
        self._max_reports = max_reports
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._prune_every = max(1, min(_PRUNE_EVERY, max_reports // 10))
        self._promised = False
        self._begin()
        check_writable(self.path, any_content=True)

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the columns and tables that are not there yet."""
        super().prepare(connection)
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -512")  # KiB; rows are read once, in order.
        connection.execute("BEGIN IMMEDIATE")
        there = {row[1] for row in connection.execute("PRAGMA table_info(reports)")}
        for name, kind in _COLUMNS.items():
            if name not in there:
                connection.execute(f"ALTER TABLE reports ADD COLUMN {name} {kind}")
        connection.execute("COMMIT")
        connection.executescript(_SCHEMA)

    def abandon(self) -> None:
        """Leave to the parent what is the parent's."""
        super().abandon()
        self._begin()

    def keep(self, event: Event, payload: bytes) -> tuple[bool, list[str]]:
        """Write an event and commit.

        Returns:
            Whether it is new, and the ids of what made room and no other process will count.
        """
        row = (event["event_id"], timestamp(event), identity(event), payload.decode())
        with self.transaction() as connection:
            is_new = connection.execute(_INSERT, (*row, self._target, self._owner)).rowcount > 0
            if not self._promised:
                self._promise(connection)
            self._written += 1
            if self._written % self._prune_every != 1 % self._prune_every:
                return is_new, []
            return is_new, self._prune(connection)

    def claim(self) -> list[str]:
        """Promise to be back, and take over what nobody has promised to send.

        Returns:
            The ids of what was too old to be sent, and no other process will count.
        """
        with self.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE until < ?", (time(),))
            self._promise(connection)
            living = {owner for (owner,) in connection.execute("SELECT owner FROM owners")}
            query = f"SELECT DISTINCT owner {_WAITING} AND target = ?"
            for (owner,) in connection.execute(query, (self._target,)).fetchall():
                if owner not in living or _is_dead(owner):
                    connection.execute(_ADOPT, (self._owner, self._target, owner))
            return self._delete(connection, self._too_old(connection))

    def next(self) -> tuple[str, bytes] | None:
        """Return the id and payload of the oldest report that is ours to send."""
        with self.reading() as connection:
            row = connection.execute(_OLDEST, (self._owner, self._target)).fetchone()
        return None if row is None else (row[0], row[1].encode())

    def remove(self, event_id: str) -> None:
        """Forget a report, as its end is known."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM reports WHERE event_id = ?", (event_id,))

    def leave(self) -> None:
        """Take the promise back, if there is one: whoever comes next sends what is left."""
        if not self._promised:
            return
        with self.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE owner = ?", (self._owner,))
        self._promised = False

    def waiting(self) -> int:
        """Return how many reports are ours to send."""
        query = "SELECT count(*) FROM reports WHERE owner = ? AND target = ?"
        with self.reading() as connection:
            (number,) = connection.execute(query, (self._owner, self._target)).fetchone()
        return int(number)

    def vanished(self, event_ids: list[str]) -> list[str]:
        """Return which of some reports are not ours to send any more."""
        gone = []
        for start in range(0, len(event_ids), _BATCH):
            batch = event_ids[start : start + _BATCH]
            marks = ", ".join("?" * len(batch))
            query = f"SELECT event_id FROM reports WHERE owner = ? AND event_id IN ({marks})"  # noqa: S608
            with self.reading() as connection:
                there = {row[0] for row in connection.execute(query, (self._owner, *batch))}
            gone += [event_id for event_id in batch if event_id not in there]
        return gone

    def is_waiting(self) -> bool:
        """Return whether any process has left a report for this server."""
        query = "SELECT 1 FROM reports WHERE target = ? LIMIT 1"
        with self.reading() as connection:
            return connection.execute(query, (self._target,)).fetchone() is not None

    def _begin(self) -> None:
        """Set what belongs to one process."""
        self._owner = _owner(os.getpid()) + f"/{os.urandom(4).hex()}"
        self._promised = False
        self._written = 0

    def _promise(self, connection: sqlite3.Connection) -> None:
        connection.execute(_PROMISE, (self._owner, time() + LEASE_SECONDS))
        self._promised = True

    def _prune(self, connection: sqlite3.Connection) -> list[str]:
        """Delete what is too old or too much; return the ids that are ours to count."""
        (number,) = connection.execute(f"SELECT count(*) {_WAITING}").fetchone()
        excess = max(0, number - self._max_reports)
        if _used_bytes(connection) > self._max_bytes:
            excess = max(excess, number // 10, 1)
        gone = self._too_old(connection)
        gone += connection.execute(
            f"SELECT event_id, owner {_WAITING} ORDER BY rowid LIMIT ?",
            (excess,),
        ).fetchall()
        return self._delete(connection, gone)

    def _too_old(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        query = f"SELECT event_id, owner {_WAITING} AND timestamp < ?"
        return connection.execute(query, (time() - self._max_age,)).fetchall()

    def _delete(self, connection: sqlite3.Connection, gone: list[tuple[str, str]]) -> list[str]:
        """Delete reports of an id and an owner; return the ids that are ours to count."""
        lost = dict(gone)
        connection.executemany("DELETE FROM reports WHERE event_id = ?", zip(lost))
        query = "SELECT owner FROM owners WHERE until >= ? AND owner != ?"
        # Who lives counts itself what has vanished of its own.
        others = {owner for (owner,) in connection.execute(query, (time(), self._owner))}
        return [event_id for event_id, owner in lost.items() if owner not in others]

    def _open(self) -> sqlite3.Connection:
        for _ in range(_ATTEMPTS):
            found = inode(self.path)
            try:
                return self._open_unmoved()
            except sqlite3.DatabaseError as error:
                if is_corrupt(error):
                    self._set_aside(found)
                elif inode(self.path) == found:
                    raise  # Else another process has just set it aside.
        return self._open_unmoved()

    def _open_unmoved(self) -> sqlite3.Connection:
        before = self._inode
        with directory_lock(self.path.parent, alone=False):
            connection = super()._open()
        if self._inode != before:
            self._promised = False  # What was promised in another file nobody here knows.
        return connection

    def set_aside(self) -> None:
        """Rename a file that turned out to be corrupt, and begin anew; nothing is deleted.

        One that took its place meanwhile stays: another process was faster.
        """
        self._set_aside(self._inode)

    def _set_aside(self, found: int) -> None:
        self.release()
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


def outbox_status(path: str | os.PathLike[str]) -> OutboxStatus:
    """Return what an outbox holds.

    Raises:
        ConfigurationError: there is no such file, or it is no outbox.
    """
    with closing(_existing_outbox(path, "ro")) as connection:
        connection.execute("BEGIN")
        waiting = dict(
            connection.execute(f"SELECT target, count(*) {_WAITING} GROUP BY target").fetchall()
        )
        size, oldest = connection.execute(
            f"SELECT coalesce(sum(length(payload)), 0), min(timestamp) {_WAITING}"
        ).fetchone()
        owners = connection.execute(
            "SELECT owner, until FROM owners WHERE owner IN (SELECT owner FROM reports)"
        ).fetchall()
        living = [owner for owner, until in owners if until >= time() and not _is_dead(owner)]
        query = f"SELECT count(*) {_WAITING} AND owner = ?"
        claimed = sum(connection.execute(query, (owner,)).fetchone()[0] for owner in living)
    return OutboxStatus(waiting, claimed, size, oldest)


def clear_outbox(path: str | os.PathLike[str]) -> int:
    """Delete every report that waits, unsent; return how many.

    Raises:
        ConfigurationError: there is no such file, or it is no outbox.
    """
    with closing(_existing_outbox(path, "rw")) as connection:
        return connection.execute(f"DELETE {_WAITING}").rowcount


def _existing_outbox(path: str | os.PathLike[str], mode: str) -> sqlite3.Connection:
    file = existing_file(path)
    connection = connect(file, mode)
    try:
        connection.execute("SELECT target, owner FROM reports, owners USING (owner) LIMIT 0")
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{str(file)!r} is no outbox: {error}") from error
    return connection


def is_corrupt(error: BaseException) -> bool:
    """Return whether SQLite found a file to be damaged, or to be no database at all."""
    # The lowest byte: the others tell details.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


# Who is alive: an owner is named by its host, its pid and when that process began, so that
# neither another host's nor a later process of the same pid is taken for it.


def _owner(pid: int) -> str:
    return f"{_HOST}/{pid}/{_beginning(pid)}"


def _is_dead(owner: str | None) -> bool:
    """Return whether an owner is known to be gone; one of another host never is."""
    if owner is None:
        return True
    host, _, rest = owner.partition("/")
    pid = rest.partition("/")[0]
    if host != _HOST or not pid.isdecimal():
        return False
    return _beginning(int(pid)) == "gone" or not owner.startswith(f"{_owner(int(pid))}/")


def _host() -> str:
    import socket

    try:
        # Containers may share a host's name, and each has its own pids.
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        space = sys.platform
    return f"{socket.gethostname()}:{space}".replace("/", "_")


def _beginning(pid: int) -> str:
    """Return when a process began, in the system's ticks; "gone" if there is none."""
    if not Path("/proc/self/stat").exists():
        return _beginning_unknown(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "gone"
    state, *fields = stat.rpartition(b")")[2].split()
    return "gone" if state in (b"Z", b"X") else fields[18].decode()


def _beginning_unknown(pid: int) -> str:
    if sys.platform == "win32":
        return ""  # os.kill() would end it; the promise's end decides.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        pass
    return ""


_HOST = _host()
