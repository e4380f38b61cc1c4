"""Events that wait in an SQLite file until their server has decided about them.

The file is one of reports (`report_file`), each with its server (`target`) and the process that
keeps it (`owner`). An owner holds a lease, which it renews; what belongs to one that is gone, any
other process adopts.
"""

from __future__ import annotations

from itertools import chain
from time import time
from typing import TYPE_CHECKING

from usercontext.sentry.delivery.outbox_file import FILE_ERRORS, OutboxFile, is_corrupt
from usercontext.sentry.delivery.owners import is_dead, new_owner
from usercontext.sentry.delivery.report_file import BATCH_BYTES, described

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from usercontext.types import Event

__all__ = ["LEASE_SECONDS", "Bounds", "Outbox"]

#: How long a lease lasts; it is renewed in a third of that.
LEASE_SECONDS = 60.0

_MAX_BYTES = 64 << 20
_PRUNE_EVERY = 50
# How many reports one transaction adopts or deletes, so that it locks the file for milliseconds.
_STEP = 500
_ASKED_AT_ONCE = 500  # A statement takes no more than 999 values in older versions of SQLite.
_DELETE = "DELETE FROM reports WHERE event_id = ?"
_INSERT = """
INSERT OR IGNORE INTO reports (event_id, timestamp, identity, payload, target, owner)
VALUES (?, ?, ?, ?, ?, ?)
"""
_OLDEST = """
SELECT event_id, payload FROM reports WHERE owner = ? AND target = ? ORDER BY rowid LIMIT ?
"""
_ADOPT = """
UPDATE reports SET owner = ? WHERE rowid IN (
    SELECT rowid FROM reports WHERE owner IS ? AND target = ? ORDER BY rowid LIMIT ?
)
"""
# Each owner by a look into the index of its own: `DISTINCT` would read all of it.
_OWNERS = """
WITH RECURSIVE each (owner) AS (
    SELECT min(owner) FROM reports WHERE target IS NOT NULL
    UNION ALL
    SELECT (SELECT min(owner) FROM reports WHERE owner > each.owner AND target IS NOT NULL)
    FROM each WHERE owner IS NOT NULL
)
SELECT owner FROM each WHERE owner IS NOT NULL
"""
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
        """Return the ids and owners of what is too old or too much, as many as go in one step."""
        (number,) = connection.execute(f"SELECT count(*) {_WAITING}").fetchone()
        excess = max(0, number - self._max_reports)
        if _used_bytes(connection) > self._max_bytes:
            excess = max(excess, number // 10, 1)
        oldest = connection.execute(
            f"SELECT event_id, owner {_WAITING} ORDER BY rowid LIMIT ?", (min(excess, _STEP),)
        )
        return self.too_old(connection) + oldest.fetchall()

    def too_old(self, connection: sqlite3.Connection) -> list[tuple[str, str]]:
        """Return the ids and owners of what may not be sent any more."""
        query = f"SELECT event_id, owner {_WAITING} AND timestamp < ? LIMIT ?"
        return connection.execute(query, (time() - self._max_age, _STEP)).fetchall()


class Outbox:
    """What one process keeps for one server.

    Args:
        path: the file; its directory must exist. One that is not a database is set aside.
        target: the server's DSN, without its secret.
        bounds: what the file may hold.

    Attributes:
        file: the file.
        owner: this process's name in it.
        errors: what using it raises when it cannot be used.
        vanished_as: what others have removed was not sent.
        waits_for_limits: while a server wants to hear nothing, reports are dropped.

    Raises:
        ConfigurationError: there can be no file of that name.
    """

    errors: tuple[type[Exception], ...] = FILE_ERRORS
    vanished_as: str | None = "queue_overflow"
    waits_for_limits: bool = False

    def __init__(
        self, path: str | os.PathLike[str], target: str, *, bounds: Bounds | None = None
    ) -> None:
        self.file: OutboxFile = OutboxFile(path)
        self._target = target
        self._bounds = bounds or Bounds()
        self._leased_in: int | None = None
        self._begin()

    @property
    def place(self) -> Path:
        """The file's path."""
        return self.file.path

    def keep(self, events: Iterable[tuple[Event, bytes]]) -> tuple[list[bool], list[str]]:
        """Write events with their JSON in one transaction, in which they are iterated.

        Returns:
            Of each whether it is new, and the ids of what made room and no other process will
            count.
        """
        rows = ((*described(event), payload.decode()) for event, payload in events)
        first = next(rows, None)  # before anything is locked
        if first is None:
            return [], []
        with self.file.database.transaction() as connection:
            are_new = [
                connection.execute(_INSERT, (*row, self._target, self.owner)).rowcount > 0
                for row in chain((first,), rows)
            ]
            if self._leased_in != self.file.database.inode:
                self._renew(connection)
        self._unpruned += len(are_new)
        return are_new, self._prune() if self._unpruned >= self._bounds.every else []

    def mend(self, error: Exception) -> bool:
        """Set a corrupt file aside; return whether that was the error."""
        if not is_corrupt(error):
            return False
        self.file.set_aside()
        return True

    def renew(self) -> list[str]:
        """Renew the lease, and delete what is too old.

        Returns:
            The ids of what is deleted, and no other process will count.
        """
        with self.file.database.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE until < ?", (time(),))
            self._renew(connection)
        with self.file.database.reading() as connection:
            gone = self._bounds.too_old(connection)
        return self._delete(gone)

    def adopt(self) -> int:
        """Take over some of what nobody holds a lease for; return how many reports."""
        with self.file.database.reading() as connection:
            abandoned = self._abandoned(connection)
        if not abandoned:
            return 0
        adopted = 0
        with self.file.database.transaction() as connection:
            for owner in abandoned:
                row = (self.owner, owner, self._target, _STEP - adopted)
                adopted += connection.execute(_ADOPT, row).rowcount
        return adopted

    def next(self, limit: int) -> list[tuple[str, bytes]]:
        """Return the ids and payloads of the oldest reports that are ours to send."""
        found: list[tuple[str, bytes]] = []
        size = 0
        with self.file.database.reading() as connection:
            rows = connection.execute(_OLDEST, (self.owner, self._target, limit))
            for event_id, payload in rows:
                found.append((event_id, payload.encode()))
                size += len(payload)
                if size > BATCH_BYTES:
                    break
            rows.close()
        return found

    def remove(self, event_ids: Iterable[str]) -> None:
        """Forget reports, as their end is known."""
        with self.file.database.transaction() as connection:
            connection.executemany(_DELETE, zip(event_ids))

    def give_back(self) -> None:
        """Keep what is ours: nobody else sends it while this process lives."""

    def release(self) -> None:
        """End the lease, if there is one: whoever comes next sends what is left."""
        if self._leased_in is None:
            return
        with self.file.database.transaction() as connection:
            connection.execute("DELETE FROM owners WHERE owner = ?", (self.owner,))
        self._leased_in = None

    def waiting(self) -> int:
        """Return how many reports are ours to send, or to adopt."""
        query = "SELECT count(*) FROM reports WHERE owner IS ? AND target = ?"
        with self.file.database.reading() as connection:
            owners = [self.owner, *self._abandoned(connection)]
            counts = [connection.execute(query, (owner, self._target)) for owner in owners]
            return sum(count.fetchone()[0] for count in counts)

    def vanished(self, event_ids: list[str]) -> list[str]:
        """Return which of some reports are not ours to send any more."""
        gone = []
        for start in range(0, len(event_ids), _ASKED_AT_ONCE):
            batch = event_ids[start : start + _ASKED_AT_ONCE]
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

    def paused(self) -> float:
        """Return 0: this process alone sends what is its own."""
        return 0.0

    def pause(self, seconds: float) -> None:
        """Tell nobody."""

    def failed(self) -> None:
        """Say once that the file cannot be used, and close it."""
        self.file.failed()

    def close(self) -> None:
        """Close the file."""
        self.file.database.close()

    def in_a_hurry(self, deadline: float) -> AbstractContextManager[None]:
        """Let this thread wait for the file until then alone."""
        return self.file.database.in_a_hurry(deadline)

    def before_fork(self) -> None:
        """Close the file while this process forks."""
        self.file.database.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let the threads use the file again."""
        self.file.database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's."""
        self.file.database.after_fork_in_child()
        self._begin()

    def _begin(self) -> None:
        """Set what belongs to one process."""
        self.owner: str = new_owner()
        # The file in which the lease stands: in one that took its place, nobody knows of it.
        self._leased_in = None
        # The first report makes us look.
        self._unpruned = self._bounds.every

    def _renew(self, connection: sqlite3.Connection) -> None:
        lease = (self.owner, time() + LEASE_SECONDS)
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", lease)
        self._leased_in = self.file.database.inode

    def _abandoned(self, connection: sqlite3.Connection) -> list[str | None]:
        """Return whose reports nobody will send, but for ours."""
        query = "SELECT owner FROM owners WHERE until >= ?"
        living = {owner for (owner,) in connection.execute(query, (time(),))}
        keepers = [owner for (owner,) in connection.execute(_OWNERS) if owner != self.owner]
        unowned = "SELECT 1 FROM reports WHERE owner IS NULL AND target = ? LIMIT 1"
        nobody = [None] if connection.execute(unowned, (self._target,)).fetchone() else []
        return nobody + [owner for owner in keepers if owner not in living or is_dead(owner)]

    def _prune(self) -> list[str]:
        """Delete what is too much; return the ids that are ours to count."""
        lost: list[str] = []
        pruned = 0
        while pruned < _STEP:
            with self.file.database.reading() as connection:
                gone = self._bounds.exceeded(connection)
            if not gone:
                break
            lost += self._delete(gone)
            pruned += len(gone)
        # What is too much by far goes on with the next reports.
        self._unpruned = 0 if pruned < _STEP else self._bounds.every
        return lost

    def _delete(self, gone: list[tuple[str, str]]) -> list[str]:
        """Delete reports of an id and an owner; return the ids that are ours to count."""
        if not gone:
            return []
        query = "SELECT owner FROM owners WHERE until >= ? AND owner != ?"
        with self.file.database.transaction() as connection:
            # Who lives counts itself what has vanished of its own.
            others = {owner for (owner,) in connection.execute(query, (time(), self.owner))}
            deleted = [
                (event_id, owner)
                for event_id, owner in dict(gone).items()
                if connection.execute(
                    "DELETE FROM reports WHERE event_id = ?", (event_id,)
                ).rowcount
            ]
        return [event_id for event_id, owner in deleted if owner not in others]


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
