"""What the pages list: each list is one walk along an index, and goes on from a key."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from usercontext.sentry.delivery.report_file import connect_to_read

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "Found",
    "FoundReport",
    "Lists",
    "Page",
    "Problem",
    "ReportRow",
    "Totals",
    "UserRow",
]

_PAGE = 50
_PROBLEMS_PAGE = 25
_BARS = 24
_DAY = 24
_SEARCHED = 10_000
_FOUND = 20


class Totals(NamedTuple):
    """How much there is in the file."""

    reports: int
    users: int
    problems: int
    newest: int
    is_complete: bool


class ReportRow(NamedTuple):
    """A line of a list of reports."""

    report: int
    event_id: str
    timestamp: float
    level: str
    identity: str | None
    name: str
    address: str
    problem: int
    title: str
    place: str


class Problem(NamedTuple):
    """Reports that share a kind and a frame."""

    problem: int
    kind: str
    frame: str
    reports: int
    users: int
    first: float
    last: float
    level: str
    title: str
    #: Reports in each of the latest hours, or days, the oldest first.
    bars: list[int]
    #: How many hours each of them stands for.
    hours_of_bar: int


class UserRow(NamedTuple):
    """A user that reports name."""

    identity: str
    name: str
    reports: int
    first: float
    last: float
    addresses: list[tuple[str, int]]


class Page(NamedTuple):
    """Some rows of a list, and the key from which the rest goes on; empty at its end."""

    rows: list[Any]
    after: str


class Found(NamedTuple):
    """What a search has found."""

    problems: list[Problem]
    users: list[UserRow]
    reports: list[ReportRow]
    #: In how many of the newest reports texts were looked for.
    searched: int


class FoundReport(NamedTuple):
    """A report, and its neighbours of the same problem."""

    event: dict[str, Any]
    problem: int | None
    newer: str | None
    older: str | None


_COLUMNS = "report, event_id, timestamp, level, identity, name, address, problem, title, place"
_TIMELINE = f"""
SELECT {_COLUMNS} FROM inspector_reports
WHERE {{}} (timestamp, report) < (?, ?) ORDER BY timestamp DESC, report DESC LIMIT ?
"""  # noqa: S608
_PROBLEMS = """
SELECT p.problem, p.kind, p.frame, p.reports, p.users, p.first, p.last, r.level, r.title
FROM inspector_problems p JOIN inspector_reports r ON r.report = (
    SELECT report FROM inspector_reports WHERE problem = p.problem
    ORDER BY timestamp DESC, report DESC LIMIT 1)
WHERE {} ORDER BY p.last DESC, p.problem DESC LIMIT ?
"""
_USERS = """
SELECT identity, name, reports, first, last FROM inspector_users
WHERE {} ORDER BY last DESC, identity DESC LIMIT ?
"""
_BARS_OF = """
SELECT hour / ? AS bar, sum(reports) FROM inspector_hours
WHERE problem = ? AND hour >= ? GROUP BY bar
"""
_NEIGHBOUR = """
SELECT event_id FROM inspector_reports
WHERE problem = ? AND (timestamp, report) {} (?, ?) ORDER BY timestamp {}, report {} LIMIT 1
"""
_TEXTS = f"""
SELECT {_COLUMNS} FROM (
    SELECT {_COLUMNS} FROM inspector_reports ORDER BY timestamp DESC, report DESC LIMIT ?)
WHERE instr(lower(title), ?) OR instr(lower(place), ?) LIMIT ?
"""  # noqa: S608
_LAST_KEY: tuple[float, int] = (float("inf"), 1 << 62)


class Lists:
    """Reads what the pages show, in a connection of its own each time.

    Args:
        file: a file that the inspector has indexed.
    """

    def __init__(self, file: Path) -> None:
        self.file: Path = file

    def totals(self) -> Totals:
        """Return how much there is."""
        with self._reading() as connection:
            reports, users, problems = connection.execute(
                "SELECT reports, users, problems FROM inspector_totals"
            ).fetchone()
            (newest,) = connection.execute(
                "SELECT coalesce(max(report), 0) FROM inspector_reports"
            ).fetchone()
            (last,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM reports").fetchone()
        return Totals(reports, users, problems, newest, newest >= last)

    def problems(self, after: str = "") -> Page:
        """Return problems, the one that happened last first."""
        condition = "(p.last, p.problem) < (?, ?)" if after else "TRUE"
        key = _number_key(after) if after else ()
        with self._reading() as connection:
            query = _PROBLEMS.format(condition)
            rows = connection.execute(query, (*key, _PROBLEMS_PAGE)).fetchall()
            found = _with_bars(connection, rows)
        last = found[-1] if len(found) == _PROBLEMS_PAGE else None
        return Page(found, f"{last.last!r}_{last.problem}" if last else "")

    def problem(self, number: int) -> Problem | None:
        """Return one problem."""
        with self._reading() as connection:
            rows = connection.execute(_PROBLEMS.format("p.problem = ?"), (number, 1)).fetchall()
            found = _with_bars(connection, rows)
        return found[0] if found else None

    def users(self, after: str = "") -> Page:
        """Return users, who was reported last first."""
        condition = "(last, identity) < (?, ?)" if after else "TRUE"
        key = _text_key(after) if after else ()
        with self._reading() as connection:
            rows = connection.execute(_USERS.format(condition), (*key, _PAGE)).fetchall()
            found = _with_addresses(connection, rows, limit=3)
        last = found[-1] if len(found) == _PAGE else None
        return Page(found, f"{last.last!r}_{last.identity}" if last else "")

    def user(self, identity: str) -> UserRow | None:
        """Return one user, with the addresses that reports have seen."""
        with self._reading() as connection:
            rows = connection.execute(_USERS.format("identity = ?"), (identity, 1)).fetchall()
            found = _with_addresses(connection, rows, limit=100)
        return found[0] if found else None

    def timeline(
        self,
        *,
        identity: str | None = None,
        problem: int | None = None,
        level: str | None = None,
        after: str = "",
    ) -> Page:
        """Return reports, the newest first: all, a user's (`""`: nobody's), or a problem's."""
        condition, values = _chosen(identity, problem, level)
        key = _number_key(after) if after else _LAST_KEY
        with self._reading() as connection:
            query = _TIMELINE.format(condition)
            found = connection.execute(query, (*values, *key, _PAGE)).fetchall()
        rows = [ReportRow(*row) for row in found]
        last = rows[-1] if len(rows) == _PAGE else None
        return Page(rows, f"{last.timestamp!r}_{last.report}" if last else "")

    def report(self, event_id: str) -> FoundReport | None:
        """Return one report, also if it is not in the tables yet."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT rowid, payload FROM reports WHERE event_id = ?", (event_id,)
            ).fetchone()
            if row is None:
                return None
            event = json.loads(row[1])
            place = connection.execute(
                "SELECT problem, timestamp, report FROM inspector_reports WHERE report = ?",
                (row[0],),
            ).fetchone()
            if place is None:
                return FoundReport(event, None, None, None)
            newer = connection.execute(_NEIGHBOUR.format(">", "ASC", "ASC"), place).fetchone()
            older = connection.execute(_NEIGHBOUR.format("<", "DESC", "DESC"), place).fetchone()
        return FoundReport(
            event, place[0], newer[0] if newer else None, older[0] if older else None
        )

    def search(self, text: str) -> Found:
        """Return what has a text in it: all problems and users, and the newest reports."""
        wanted = text.strip().lower()
        with self._reading() as connection:
            problems = connection.execute(
                _PROBLEMS.format("instr(lower(p.kind || ' ' || p.frame), ?)"), (wanted, _FOUND)
            ).fetchall()
            users = connection.execute(
                "SELECT DISTINCT r.identity FROM inspector_fields f "
                "JOIN inspector_reports r ON r.report = f.report "
                "WHERE f.value >= ? AND f.value < ? AND r.identity IS NOT NULL LIMIT ?",
                (text.strip(), text.strip() + "\U0010ffff", _FOUND),
            ).fetchall()
            rows = [
                row
                for (identity,) in users
                for row in connection.execute(_USERS.format("identity = ?"), (identity, 1))
            ]
            reports = (
                self._by_id(connection, wanted)
                or connection.execute(_TEXTS, (_SEARCHED, wanted, wanted, _FOUND)).fetchall()
            )
            return Found(
                _with_bars(connection, problems),
                _with_addresses(connection, rows, limit=3),
                [ReportRow(*row) for row in reports],
                _SEARCHED,
            )

    def newest(self) -> int:
        """Return the number of the newest report in the tables."""
        with self._reading() as connection:
            row = connection.execute("SELECT max(report) FROM inspector_reports").fetchone()
        return row[0] or 0

    @staticmethod
    def _by_id(connection: sqlite3.Connection, wanted: str) -> list[Any]:
        digits = wanted.replace("-", "")
        if len(digits) < 8 or not set(digits) <= set("0123456789abcdef"):
            return []
        return connection.execute(
            f"SELECT {_COLUMNS} FROM inspector_reports WHERE report IN "  # noqa: S608
            "(SELECT rowid FROM reports WHERE event_id >= ? AND event_id < ? LIMIT 20)",
            (digits, f"{digits}g"),
        ).fetchall()

    def _reading(self) -> closing[sqlite3.Connection]:
        return closing(connect_to_read(self.file))


def _chosen(identity: str | None, problem: int | None, level: str | None) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    if identity == "":
        parts.append("identity IS NULL AND")
    for column, value in (("identity", identity), ("problem", problem), ("level", level)):
        if value not in (None, ""):
            parts.append(f"{column} = ? AND")
            values.append(value)
    return " ".join(parts), values


def _number_key(text: str) -> tuple[float, int]:
    first, _, second = text.partition("_")
    try:
        return float(first), min(int(second), _LAST_KEY[1])
    except ValueError:
        return _LAST_KEY


def _text_key(text: str) -> tuple[float, str]:
    first, _, second = text.partition("_")
    try:
        return float(first), second
    except ValueError:
        return float("inf"), ""


def _with_bars(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[Problem]:
    """Add to problems how their reports are spread over the latest day, or the latest weeks."""
    found = list(rows)
    newest = max((row[6] for row in found), default=0.0)
    oldest = min((row[5] for row in found), default=0.0)
    hours = 1 if newest - oldest < _DAY * 3600 else _DAY
    last = int(newest // 3600) // hours
    first = last - _BARS + 1
    problems = []
    for row in found:
        bars = dict(connection.execute(_BARS_OF, (hours, row[0], first * hours)).fetchall())
        heights = [bars.get(first + at, 0) for at in range(_BARS)]
        problems.append(Problem._make((*row, heights, hours)))
    return problems


def _with_addresses(
    connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], *, limit: int
) -> list[UserRow]:
    query = (
        "SELECT address, reports FROM inspector_addresses WHERE identity = ? "
        "ORDER BY last DESC LIMIT ?"
    )
    return [
        UserRow._make((*row, connection.execute(query, (row[0], limit)).fetchall())) for row in rows
    ]
