"""Erases what a file, of reports or an outbox, holds of a person, so that nothing of it is left."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from usercontext.inspector.index import connect_to_write
from usercontext.inspector.report import cut, mapping, named_by, title, user_of
from usercontext.inspector.selection import naming_user
from usercontext.sentry.delivery.report_file import connect_to_read, existing_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

__all__ = [
    "Erased",
    "ReportOfUser",
    "copies_elsewhere",
    "erase_user",
    "mentions",
    "reports_of_user",
]

_BATCH = 500
_LEAST_TEXT = 5
_PREFIXES = ("id:", "username:", "email:", "ip:")


class ReportOfUser(NamedTuple):
    """A report that names a user."""

    row: int
    event_id: str
    timestamp: float
    title: str


class Erased(NamedTuple):
    """What has become of a user's reports."""

    reports: int
    #: Whether the file was rewritten without them; else their pages are overwritten all the
    #: same, and the file is as large as before.
    is_compacted: bool


def reports_of_user(path: str | os.PathLike[str], user: str) -> list[ReportOfUser]:
    """Return the reports that name a user by any of the fields, the oldest first.

    Raises:
        ConfigurationError: there is no such file, or it holds no reports.
    """
    with closing(connect_to_read(existing_file(path))) as connection:
        return sorted(_named(connection, user), key=lambda report: report.timestamp)


def _named(connection: sqlite3.Connection, user: str) -> Iterator[ReportOfUser]:
    condition, values = naming_user(connection, user)
    query = f"SELECT rowid, event_id, timestamp, payload FROM reports WHERE {condition}"  # noqa: S608
    for row, event_id, timestamp, payload in connection.execute(query, values):
        event = _decoded(payload)
        if named_by(user_of(event), user):
            yield ReportOfUser(row, event_id, timestamp, cut(title(event), 100))


def _decoded(payload: str) -> dict[str, Any]:
    try:
        return mapping({"event": json.loads(payload)}, "event")
    except ValueError:
        return {}


def erase_user(path: str | os.PathLike[str], user: str) -> Erased:
    """Delete a user's reports, overwrite where they stood, and rewrite the file.

    Raises:
        ConfigurationError: there is no such file, or it holds no reports.
    """
    file = existing_file(path)
    gone = reports_of_user(file, user)
    with closing(connect_to_write(file, any_kind=True)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        number = sum(
            _delete(connection, gone[at : at + _BATCH]) for at in range(0, len(gone), _BATCH)
        )
        return Erased(number, _compact(connection))


def _delete(connection: sqlite3.Connection, reports: list[ReportOfUser]) -> int:
    """Delete some reports in one go; the app, which waits meanwhile, may be faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # By both: another report may have a row's number by now.
        number = sum(
            connection.execute(
                "DELETE FROM reports WHERE rowid = ? AND event_id = ?", report[:2]
            ).rowcount
            for report in reports
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return number


def _compact(connection: sqlite3.Connection) -> bool:
    """Rewrite the file, and its log as well, which has the old pages; not while others read."""
    try:
        connection.execute("VACUUM")
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:
        return False
    return not is_busy


def mentions(path: str | os.PathLike[str], user: str) -> int:
    """Return how many reports of others hold the text that names a user; 0 for short ones."""
    text = user.partition(":")[2] if user.startswith(_PREFIXES) else user
    if len(text) < _LEAST_TEXT:
        return 0
    written = [json.dumps(text, ensure_ascii=escapes)[1:-1] for escapes in (False, True)]
    with closing(connect_to_read(existing_file(path))) as connection:
        (number,) = connection.execute(
            "SELECT count(*) FROM reports WHERE instr(payload, ?) OR instr(payload, ?)", written
        ).fetchone()
    return int(number) - len(reports_of_user(path, text))


def copies_elsewhere(path: str | os.PathLike[str]) -> list[str]:
    """Return where else the file's reports are known to be: servers, and files set aside."""
    file = existing_file(path)
    with closing(connect_to_read(file)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        found = []
        if "sent_reports" in tables:
            query = "SELECT DISTINCT target FROM sent_reports"
            found += [target for (target,) in connection.execute(query)]
        if "owners" in tables:
            query = "SELECT DISTINCT target FROM reports WHERE target IS NOT NULL"
            found += [target.rpartition("@")[2] for (target,) in connection.execute(query)]
    return sorted(set(found)) + _set_aside(file)


def _set_aside(file: Path) -> list[str]:
    return sorted(str(path) for path in file.parent.glob(f"{file.name}.corrupt-*"))
