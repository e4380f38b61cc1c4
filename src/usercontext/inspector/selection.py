"""Which reports of a file are asked for: found by its indexes, decoded only where they must be."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from usercontext.exceptions import ConfigurationError
from usercontext.inspector.report import LEVELS, level, named_by, user_of
from usercontext.sentry.delivery.report_file import connect_to_read, existing_file

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "Selection",
    "find_report",
    "is_indexed",
    "kind_of_file",
    "naming_user",
    "select_reports",
]

_PREFIXES = ("id:", "username:", "email:", "ip:")
_DIGITS = frozenset("0123456789abcdef")
_LARGEST_ID = sys.maxsize
_HOLDS = "(instr(payload, ?) OR instr(payload, ?))"
_INDEXED_OR_HOLDS = (
    "(rowid IN (SELECT report FROM inspector_fields WHERE value = ?) OR "
    "rowid > (SELECT coalesce(max(report), 0) FROM inspector_reports)"
    " AND (instr(payload, ?) OR instr(payload, ?)))"
)


class Selection(NamedTuple):
    """What is asked for; what is None is not asked about."""

    #: An id, a username, an email, an address, or an identity such as `id:7`.
    user: str | None = None
    #: Nothing that happened before, in seconds since 1970.
    since: float | None = None
    #: This level, or a worse one.
    level: str | None = None
    #: Only the newest.
    limit: int | None = None
    #: A mark of `follow_reports`: nothing that was written after it.
    until: int | None = None

    def takes(self, event: dict[str, Any]) -> bool:
        """Return whether an event is by the wanted user, and bad enough."""
        if self.user is not None and not named_by(user_of(event), self.user):
            return False
        return self.level is None or LEVELS.index(level(event)) >= LEVELS.index(self.level)


def select_reports(path: str | os.PathLike[str], selection: Selection) -> Iterator[dict[str, Any]]:
    """Return an iterator of the events that are asked for, oldest first.

    Raises:
        ConfigurationError: there is no such file, or it does not hold reports.
    """
    file = existing_file(path)
    with closing(connect_to_read(file)) as connection:
        rows = _candidates(connection, selection)
    if selection.limit is None:
        return _events(file, reversed(rows), selection)
    newest: list[dict[str, Any]] = list(islice(_events(file, rows, selection), selection.limit))
    return iter(newest[::-1])


def find_report(path: str | os.PathLike[str], event_id: str) -> dict[str, Any]:
    """Return the event of an id, or of the beginning of one.

    Raises:
        ConfigurationError: none has it, or several begin like this.
    """
    wanted = event_id.replace("-", "").lower()
    if len(wanted) < 4 or not _DIGITS.issuperset(wanted):
        raise ConfigurationError(
            f"{event_id!r} is not an event id: give the hexadecimal digits of the column EVENT, at "
            "least the first 4"
        )
    with closing(connect_to_read(existing_file(path))) as connection:
        rows = connection.execute(
            "SELECT payload FROM reports WHERE event_id >= ? AND event_id < ? LIMIT 2",
            (wanted, f"{wanted}g"),
        ).fetchall()
    if len(rows) == 1:
        event: dict[str, Any] = json.loads(rows[0][0])
        return event
    found = "several reports begin" if rows else "there is no report that begins"
    raise ConfigurationError(f"{found} with {event_id!r} in {str(path)!r}")


def _candidates(connection: sqlite3.Connection, selection: Selection) -> list[int]:
    """Return the rows among which the wanted reports are, newest first."""
    until = _LARGEST_ID if selection.until is None else selection.until
    since = float("-inf") if selection.since is None else selection.since
    values: list[str] = []
    query = "SELECT rowid FROM reports WHERE rowid <= ? AND timestamp >= ?"
    if selection.user is not None:
        named, values = naming_user(connection, selection.user)
        query += f" AND {named}"
    query += f" ORDER BY timestamp DESC, rowid DESC {_limit(selection)}"
    found = connection.execute(query, (until, since, *values))
    return [row for (row,) in found]


def _limit(selection: Selection) -> str:
    # What is decided by the payload alone cannot be limited before it is read.
    is_decided = selection.limit is not None and selection.level is None and selection.user is None
    return f"LIMIT {selection.limit}" if is_decided else ""


def naming_user(connection: sqlite3.Connection, wanted: str) -> tuple[str, list[str]]:
    """Return a condition, and its values, that all reports of a user fulfil, and few others.

    An identity has an index in every file. A bare text may stand in a field that the identity
    does not show, such as the email beside an id: what the inspector has not indexed yet SQLite
    looks through itself, much faster than the payloads could be decoded.
    """
    if wanted.startswith(_PREFIXES):
        return "identity = ?", [wanted]
    written = [json.dumps(wanted, ensure_ascii=escapes)[1:-1] for escapes in (False, True)]
    if not is_indexed(connection):
        return _HOLDS, written
    return _INDEXED_OR_HOLDS, [wanted, *written]


def is_indexed(connection: sqlite3.Connection) -> bool:
    """Return whether the inspector has been at a file, so that its tables are there."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'inspector_fields'"
    return connection.execute(query).fetchone() is not None


def _events(file: Path, rows: Iterable[int], selection: Selection) -> Iterator[dict[str, Any]]:
    """Yield the events in short reads: an open one would keep SQLite from tidying up."""
    with closing(connect_to_read(file)) as connection:
        for row in rows:
            found = connection.execute("SELECT payload FROM reports WHERE rowid = ?", (row,))
            for (payload,) in found.fetchall():
                event = json.loads(payload)
                if selection.takes(event):
                    yield event


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return what a file is: `reports`, `outbox`, or `neither`.

    Raises:
        ConfigurationError: there is no such file, or it is not an SQLite database.
    """
    try:
        connection = connect_to_read(existing_file(path))
    except ConfigurationError:
        existing_file(path)
        return "neither"
    with closing(connection):
        columns = {row[1] for row in connection.execute("PRAGMA table_info(reports)")}
    return "outbox" if {"target", "owner"} <= columns else "reports"
