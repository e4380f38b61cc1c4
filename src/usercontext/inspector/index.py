"""Tables that make a file of reports quick to look through, whatever its size.

They stand in the file itself, beside the reports, and are filled by who looks: an app that
reports pays nothing for them. Triggers keep every count true, also when the app deletes a report
that is old, or a person is erased.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError
from usercontext.inspector import report as shown
from usercontext.sentry.delivery.report_file import connect_to_read, existing_file
from usercontext.user import IDENTITY_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ReportIndex", "connect_to_write"]

#: Of the tables below; a file with another one gets new ones.
_VERSION = 1
_BATCH = 500
_BUSY_SECONDS = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inspector_file (version INTEGER NOT NULL, key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS inspector_received (report INTEGER PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS inspector_reports (
    report INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    timestamp REAL NOT NULL,
    level TEXT NOT NULL,
    identity TEXT,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    problem INTEGER NOT NULL,
    title TEXT NOT NULL,
    place TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS inspector_by_time ON inspector_reports (timestamp, report);
CREATE INDEX IF NOT EXISTS inspector_by_level ON inspector_reports (level, timestamp, report);
CREATE INDEX IF NOT EXISTS inspector_by_user ON inspector_reports (identity, timestamp, report);
CREATE INDEX IF NOT EXISTS inspector_by_problem ON inspector_reports (problem, timestamp, report);
CREATE TABLE IF NOT EXISTS inspector_fields (
    value TEXT NOT NULL, report INTEGER NOT NULL, PRIMARY KEY (value, report)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inspector_fields_by_report ON inspector_fields (report);
CREATE TABLE IF NOT EXISTS inspector_problems (
    problem INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    frame TEXT NOT NULL,
    reports INTEGER NOT NULL DEFAULT 0,
    users INTEGER NOT NULL DEFAULT 0,
    first REAL NOT NULL,
    last REAL NOT NULL,
    UNIQUE (kind, frame)
);
CREATE INDEX IF NOT EXISTS inspector_problems_by_last ON inspector_problems (last, problem);
CREATE TABLE IF NOT EXISTS inspector_hours (
    problem INTEGER NOT NULL, hour INTEGER NOT NULL, reports INTEGER NOT NULL,
    PRIMARY KEY (problem, hour)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inspector_problem_users (
    problem INTEGER NOT NULL, identity TEXT NOT NULL, reports INTEGER NOT NULL,
    PRIMARY KEY (problem, identity)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inspector_users (
    identity TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    reports INTEGER NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inspector_users_by_last ON inspector_users (last, identity);
CREATE TABLE IF NOT EXISTS inspector_addresses (
    identity TEXT NOT NULL, address TEXT NOT NULL, reports INTEGER NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (identity, address)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inspector_totals (
    reports INTEGER NOT NULL, users INTEGER NOT NULL, problems INTEGER NOT NULL
);
INSERT INTO inspector_totals SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM inspector_totals);

CREATE TRIGGER IF NOT EXISTS inspector_forget AFTER DELETE ON reports BEGIN
    DELETE FROM inspector_reports WHERE report = OLD.rowid;
    DELETE FROM inspector_fields WHERE report = OLD.rowid;
    DELETE FROM inspector_received WHERE report = OLD.rowid;
END;
CREATE TRIGGER IF NOT EXISTS inspector_count AFTER INSERT ON inspector_reports BEGIN
    UPDATE inspector_totals SET reports = reports + 1;
    UPDATE inspector_problems SET reports = reports + 1, first = min(first, NEW.timestamp),
        last = max(last, NEW.timestamp) WHERE problem = NEW.problem;
    INSERT INTO inspector_hours VALUES (NEW.problem, CAST(NEW.timestamp / 3600 AS INTEGER), 1)
        ON CONFLICT DO UPDATE SET reports = reports + 1;
    INSERT INTO inspector_problem_users SELECT NEW.problem, NEW.identity, 1
        WHERE NEW.identity IS NOT NULL ON CONFLICT DO UPDATE SET reports = reports + 1;
    INSERT INTO inspector_users SELECT NEW.identity, NEW.name, 1, NEW.timestamp, NEW.timestamp
        WHERE NEW.identity IS NOT NULL ON CONFLICT DO UPDATE SET reports = reports + 1,
        name = CASE WHEN NEW.name = '' OR NEW.timestamp < last THEN name ELSE NEW.name END,
        first = min(first, NEW.timestamp), last = max(last, NEW.timestamp);
    INSERT INTO inspector_addresses SELECT NEW.identity, NEW.address, 1, NEW.timestamp
        WHERE NEW.identity IS NOT NULL AND NEW.address != ''
        ON CONFLICT DO UPDATE SET reports = reports + 1, last = max(last, NEW.timestamp);
END;
CREATE TRIGGER IF NOT EXISTS inspector_discount AFTER DELETE ON inspector_reports BEGIN
    UPDATE inspector_totals SET reports = reports - 1;
    UPDATE inspector_problems SET reports = reports - 1,
        first = CASE WHEN first < OLD.timestamp THEN first ELSE coalesce((SELECT min(timestamp)
            FROM inspector_reports WHERE problem = OLD.problem), first) END,
        last = CASE WHEN last > OLD.timestamp THEN last ELSE coalesce((SELECT max(timestamp)
            FROM inspector_reports WHERE problem = OLD.problem), last) END
        WHERE problem = OLD.problem;
    DELETE FROM inspector_problems WHERE problem = OLD.problem AND reports <= 0;
    UPDATE inspector_hours SET reports = reports - 1
        WHERE problem = OLD.problem AND hour = CAST(OLD.timestamp / 3600 AS INTEGER);
    DELETE FROM inspector_hours WHERE problem = OLD.problem
        AND hour = CAST(OLD.timestamp / 3600 AS INTEGER) AND reports <= 0;
    UPDATE inspector_problem_users SET reports = reports - 1
        WHERE problem = OLD.problem AND identity = OLD.identity;
    DELETE FROM inspector_problem_users
        WHERE problem = OLD.problem AND identity = OLD.identity AND reports <= 0;
    UPDATE inspector_users SET reports = reports - 1,
        last = CASE WHEN last > OLD.timestamp THEN last ELSE coalesce((SELECT max(timestamp)
            FROM inspector_reports WHERE identity = OLD.identity), last) END
        WHERE identity = OLD.identity;
    DELETE FROM inspector_users WHERE identity = OLD.identity AND reports <= 0;
    UPDATE inspector_addresses SET reports = reports - 1
        WHERE identity = OLD.identity AND address = OLD.address;
    DELETE FROM inspector_addresses
        WHERE identity = OLD.identity AND address = OLD.address AND reports <= 0;
END;
CREATE TRIGGER IF NOT EXISTS inspector_affect AFTER INSERT ON inspector_problem_users BEGIN
    UPDATE inspector_problems SET users = users + 1 WHERE problem = NEW.problem;
END;
CREATE TRIGGER IF NOT EXISTS inspector_unaffect AFTER DELETE ON inspector_problem_users BEGIN
    UPDATE inspector_problems SET users = users - 1 WHERE problem = OLD.problem;
END;
CREATE TRIGGER IF NOT EXISTS inspector_meet AFTER INSERT ON inspector_users BEGIN
    UPDATE inspector_totals SET users = users + 1;
END;
CREATE TRIGGER IF NOT EXISTS inspector_unmeet AFTER DELETE ON inspector_users BEGIN
    UPDATE inspector_totals SET users = users - 1;
END;
CREATE TRIGGER IF NOT EXISTS inspector_open AFTER INSERT ON inspector_problems BEGIN
    UPDATE inspector_totals SET problems = problems + 1;
END;
CREATE TRIGGER IF NOT EXISTS inspector_close AFTER DELETE ON inspector_problems BEGIN
    UPDATE inspector_totals SET problems = problems - 1;
END;
"""
_DROPPED = "SELECT type, name FROM sqlite_master WHERE name GLOB 'inspector_*' AND type = ?"
_NEW = """
SELECT rowid, event_id, timestamp, payload FROM reports
WHERE rowid > (SELECT coalesce(max(report), 0) FROM inspector_reports) ORDER BY rowid LIMIT ?
"""
_LEFT = """
SELECT (SELECT coalesce(max(rowid), 0) FROM reports)
    - (SELECT coalesce(max(report), 0) FROM inspector_reports)
"""
_INSERT_PROBLEM = """
INSERT OR IGNORE INTO inspector_problems (kind, frame, first, last) VALUES (?, ?, ?, ?)
"""
_INSERT = """
INSERT OR IGNORE INTO inspector_reports
SELECT ?, ?, ?, ?, ?, ?, ?, (SELECT problem FROM inspector_problems WHERE kind = ? AND frame = ?),
    ?, ?
"""
_IS_THERE = "SELECT 1 FROM reports WHERE rowid = ? AND event_id = ?"


def connect_to_write(file: Path, *, any_kind: bool = False) -> sqlite3.Connection:
    """Open a file of reports to change it.

    Args:
        file: the file.
        any_kind: whether an outbox will do.

    Raises:
        ConfigurationError: it has no reports, or is an outbox.
    """
    with closing(connect_to_read(file)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(reports)")}
    if {"target", "owner"} <= columns and not any_kind:
        raise ConfigurationError(
            f"{str(file)!r} is an outbox, whose reports wait for their server: "
            "see `usercontext outbox status`"
        )
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


class ReportIndex:
    """Keeps the tables of one file up to date with its reports.

    Args:
        path: the file, or the DSN that names it.

    Attributes:
        file: where the reports are.
        key: what an SDK must have in its DSN to send reports to this file.

    Raises:
        ConfigurationError: there is no such file, it has no reports, or it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.file: Path = existing_file(path)
        self._connection = connect_to_write(self.file)
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise ConfigurationError(
                f"{str(self.file)!r} cannot be written, which the inspector needs for its "
                f"tables: {error}"
            ) from error
        row = self._connection.execute("SELECT key FROM inspector_file").fetchone()
        self.key: str = row[0]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def left(self) -> int:
        """Return about how many reports are not in the tables yet."""
        (number,) = self._connection.execute(_LEFT).fetchone()
        return int(max(0, number))

    def catch_up(self) -> int:
        """Take some of the reports that are new into the tables; return how many."""
        rows = self._connection.execute(_NEW, (_BATCH,)).fetchall()
        described = [(row[0], row[1], _described(*row)) for row in rows]
        if described:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for report, event_id, values in described:
                    # Meanwhile the app may have deleted it to make room.
                    if self._connection.execute(_IS_THERE, (report, event_id)).fetchone():
                        self._insert(report, *values)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
        return len(described)

    def _insert(self, report: int, row: tuple[Any, ...], fields: set[str]) -> None:
        kind, frame = row[7:9]
        self._connection.execute(_INSERT_PROBLEM, (kind, frame, row[2], row[2]))
        self._connection.execute(_INSERT, row)
        self._connection.executemany(
            "INSERT OR IGNORE INTO inspector_fields VALUES (?, ?)",
            [(value, report) for value in fields],
        )

    def _prepare(self) -> None:
        if self._version() not in (None, _VERSION):
            self._drop()
        self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        if self._version() is None:
            self._connection.execute(
                "INSERT INTO inspector_file VALUES (?, ?)", (_VERSION, secrets.token_hex(16))
            )

    def _version(self) -> int | None:
        try:
            row = self._connection.execute("SELECT version FROM inspector_file").fetchone()
        except sqlite3.OperationalError:
            return None  # the tables are not there
        return None if row is None else row[0]

    def _drop(self) -> None:
        for kind in ("trigger", "table"):
            for _, name in self._connection.execute(_DROPPED, (kind,)).fetchall():
                self._connection.execute(f"DROP {kind.upper()} IF EXISTS {name}")


def _described(
    report: int, event_id: str, timestamp: float, payload: str
) -> tuple[tuple[Any, ...], set[str]]:
    """Return the row of a report, and the texts that name its user."""
    event = _decoded(payload)
    user = shown.user_of(event)
    kind, frame = shown.problem(event)
    row = (
        report,
        event_id,
        timestamp,
        shown.level(event),
        shown.identity(user) if shown.has_user(user) else None,
        shown.cut(shown.username(user), 200),
        shown.cut(shown.client_address(event), 100),
        kind,
        frame,
        shown.cut(shown.title(event), 300),
        shown.cut(shown.place(event), 300),
    )
    return row, set(_naming(user))


def _decoded(payload: str) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _naming(user: dict[str, Any]) -> Iterator[str]:
    for field in IDENTITY_FIELDS:
        value = user.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            yield str(value)
