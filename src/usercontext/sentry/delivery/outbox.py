"""Events that wait in an SQLite file until their server has decided about them.

The file is one of reports (`report_file`), each with its server (`target`) and the process that
keeps it (`owner`). An owner holds a lease, which it renews; what belongs to one that is gone, any
other process adopts.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from usercontext.sentry.delivery.outbox_file import OutboxFile
from usercontext.sentry.delivery.owners import is_dead, new_owner
from usercontext.sentry.delivery.report_file import identity, timestamp

if TYPE_CHECKING:
    import os
    import sqlite3

    from usercontext.types import Event

__all__ = ["LEASE_SECONDS", "Bounds", "Outbox"]

#: How long a lease lasts; it is renewed in a third of that.
LEASE_SECONDS = 60.0

_MAX_BYTES = 64 << 20
_PRUNE_EVERY = 50
_BATCH = 500
_INSERT = """
INSERT OR IGNORE INTO reports (event_id, timestamp, identity, payload, target, owner)
VALUES (?, ?, ?, ?, ?, ?)
"""
_OLDEST = """
SELECT event_id, payload FROM reports WHERE owner = ? AND target = ? ORDER BY rowid LIMIT 1
"""
_ADOPT = "UPDATE reports SET owner = ? WHERE target = ? AND owner IS ?"
_WAITING = "FROM reports WHERE target IS NOT NULL"


class Bounds:
    """What a file may hold, of all processes; the oldest reports go first.

    Args:
        max_reports: how many reports may wait.
        max_bytes: how large the file may grow, about.
        max_age: how many seconds a report may wait; what is older is deleted, not sent.
    """

    def __init__(
        self,
        *,
        max_reports: int = 10_000,
        max_bytes: int = _MAX_BYTES,
        max_age: float = 30 * 86_400.0,
    ) -> None:
        self._max_reports = max_reports
        self._max_bytes = max_bytes
        self._max_age = max_age
        #: After how many written reports to look.
        self.every: int = max(1, min(_PRUNE_EVERY, max_reports // 10))

    def exceeded(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        """Return the ids and owners of what is too old or too much."""
        (number,) = connection.execute(f"SELECT count(*) {_WAITING}").fetchone()
        excess = max(0, number - self._max_reports)
        if _used_bytes(connection) > self._max_bytes:
            excess = max(excess, number // 10, 1)
        oldest = connection.execute(
            f"SELECT event_id, owner {_WAITING} ORDER BY rowid LIMIT ?", (excess,)
        )
        return self.too_old(connection) + oldest.fetchall()

    def too_old(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        """Return the ids and owners of what may not be sent any more."""
        query = f"SELECT event_id, owner {_WAITING} AND timestamp < ?"
        return connection.execute(query, (time() - self._max_age,)).fetchall()


class Outbox:
    """What one process keeps for one server.

    Args:
        path: the file; its directory must exist. One that is no database is set aside.
        target: the server's DSN, without its secret.
        bounds: what the file may hold.

    Attributes:
        file: the file.
        owner: this process's name in it.

    Raises:
        ConfigurationError: there can be no file of that name.
    """

    def __init__(
        self, path: str | os.PathLike[str], target: str, *, bounds: Bounds | None = None
    ) -> None:
        self.file: OutboxFile = OutboxFile(path)
        self._target = target
        self._bounds = bounds or Bounds()
        self._leased_in: int | None = None
        self._begin()

    def keep(self, event: Event, payload: bytes) -> tuple[bool, list[str]]:
        """Write an event and commit.

        Returns:
            Whether it is new, and the ids of what made room and no other process will count.
        """
        row = (event["event_id"], timestamp(event), identity(event), payload.decode())
        with self.file.database.transaction() as connection:
            is_new = connection.execute(_INSERT, (*row, self._target, self.owner)).rowcount > 0
            if self._leased_in != self.file.database.inode:
                self._renew(connection)
            self._written += 1
            if self._written % self._bounds.every != 1 % self._bounds.every:
                return is_new, []
            return is_new, self._delete(connection, self._bounds.exceeded(connection))

    def adopt(self) -> list[str]:
        """Renew the lease, and take over what nobody holds a lease for.

        Returns:
            The ids of what was too old to be sent, and no other process will count.
        """
        with self.file.database.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE until < ?", (time(),))
            self._renew(connection)
            living = {owner for (owner,) in connection.execute("SELECT owner FROM owners")}
            query = f"SELECT DISTINCT owner {_WAITING} AND target = ?"
            for (owner,) in connection.execute(query, (self._target,)).fetchall():
                if owner not in living or is_dead(owner):
                    connection.execute(_ADOPT, (self.owner, self._target, owner))
            return self._delete(connection, self._bounds.too_old(connection))

    def next(self) -> tuple[str, bytes] | None:
        """Return the id and payload of the oldest report that is ours to send."""
        with self.file.database.reading() as connection:
            row = connection.execute(_OLDEST, (self.owner, self._target)).fetchone()
        return None if row is None else (row[0], row[1].encode())

    def remove(self, event_id: str) -> None:
        """Forget a report, as its end is known."""
        with self.file.database.transaction() as connection:
            connection.execute("DELETE FROM reports WHERE event_id = ?", (event_id,))

    def release(self) -> None:
        """End the lease, if there is one: whoever comes next sends what is left."""
        if self._leased_in is None:
            return
        with self.file.database.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE owner = ?", (self.owner,))
        self._leased_in = None

    def waiting(self) -> int:
        """Return how many reports are ours to send."""
        query = "SELECT count(*) FROM reports WHERE owner = ? AND target = ?"
        with self.file.database.reading() as connection:
            (number,) = connection.execute(query, (self.owner, self._target)).fetchone()
        return int(number)

    def vanished(self, event_ids: list[str]) -> list[str]:
        """Return which of some reports are not ours to send any more."""
        gone = []
        for start in range(0, len(event_ids), _BATCH):
            batch = event_ids[start : start + _BATCH]
            marks = ", ".join("?" * len(batch))
            query = f"SELECT event_id FROM reports WHERE owner = ? AND event_id IN ({marks})"  # noqa: S608
            with self.file.database.reading() as connection:
                there = {row[0] for row in connection.execute(query, (self.owner, *batch))}
            gone += [event_id for event_id in batch if event_id not in there]
        return gone

    def is_waiting(self) -> bool:
        """Return whether any process has left a report for this server."""
        query = "SELECT 1 FROM reports WHERE target = ? LIMIT 1"
        with self.file.database.reading() as connection:
            return connection.execute(query, (self._target,)).fetchone() is not None

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's."""
        self.file.database.after_fork_in_child()
        self._begin()

    def _begin(self) -> None:
        """Set what belongs to one process."""
        self.owner: str = new_owner()
        # The file in which the lease stands: in one that took its place, nobody knows of it.
        self._leased_in = None
        self._written = 0

    def _renew(self, connection: sqlite3.Connection) -> None:
        lease = (self.owner, time() + LEASE_SECONDS)
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", lease)
        self._leased_in = self.file.database.inode

    def _delete(self, connection: sqlite3.Connection, gone: list[tuple[str, str]]) -> list[str]:
        """Delete reports of an id and an owner; return the ids that are ours to count."""
        lost = dict(gone)
        connection.executemany("DELETE FROM reports WHERE event_id = ?", zip(lost))
        query = "SELECT owner FROM owners WHERE until >= ? AND owner != ?"
        # Who lives counts itself what has vanished of its own.
        others = {owner for (owner,) in connection.execute(query, (time(), self.owner))}
        return [event_id for event_id, owner in lost.items() if owner not in others]


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
