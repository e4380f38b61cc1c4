"""The tables of the inspector: counts that stay true, whoever writes and deletes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.exceptions import ConfigurationError
from usercontext.inspector.index import ReportIndex
from usercontext.inspector.lists import Lists
from usercontext.sentry import SentryClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file without reports."""
    path = tmp_path / "reports.db"
    SentryClient(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def index(path: Path) -> Iterator[ReportIndex]:
    """Its index."""
    with closing(ReportIndex(path)) as index:
        yield index


def write(path: Path, *reports: dict[str, Any]) -> None:
    """Put events into a file as an app of 0.1 does: without a word to the inspector."""
    import json

    from usercontext.inspector import report as shown

    with closing(sqlite3.connect(path)) as connection, connection:
        for number, event in enumerate(reports):
            row = (event.get("event_id", f"{number:032x}"), event.get("timestamp", START + number))
            connection.execute(
                "INSERT INTO reports (event_id, timestamp, identity, payload) VALUES (?, ?, ?, ?)",
                (*row, shown.identity(shown.user_of(event)) or None, json.dumps(event)),
            )


def error(kind: str, function: str, user: object = None, **parts: Any) -> dict[str, Any]:
    """An event of an exception in a function of the app."""
    frames = [
        {"function": "serve", "module": "server", "in_app": False},
        {"function": function, "module": "shop", "in_app": True},
        {"function": "get", "module": "library", "in_app": False},
    ]
    value = {"type": kind, "value": "1", "stacktrace": {"frames": frames}}
    return {"exception": {"values": [value]}, "user": user, **parts}


def test_problems(path: Path, index: ReportIndex) -> None:
    """Reports of one type and one innermost frame of the app are one problem."""
    write(
        path,
        error("KeyError", "order", {"id": "1"}),
        error("KeyError", "order", {"id": "2"}),
        error("KeyError", "order"),
        error("KeyError", "photo"),
        error("ValueError", "order"),
    )
    assert index.catch_up() == 5
    shown = [(row.kind, row.frame, row.reports, row.users) for row in Lists(path).problems().rows]

    assert shown == [
        ("ValueError", "shop:order", 1, 0),
        ("KeyError", "shop:photo", 1, 0),
        ("KeyError", "shop:order", 3, 2),
    ]


def test_first_and_last(path: Path, index: ReportIndex) -> None:
    """A problem tells when it was seen first and last, and its bars add up."""
    write(path, *(error("KeyError", "order", timestamp=START + 3600 * at) for at in (5, 0, 9)))
    index.catch_up()
    (problem,) = Lists(path).problems().rows

    assert (problem.first, problem.last) == (START, START + 3600 * 9)
    assert (sum(problem.bars), problem.bars[-1], problem.hours_of_bar) == (3, 1, 1)


def test_users(path: Path, index: ReportIndex) -> None:
    """Users have their latest name and each address; who has an address alone is nobody."""
    write(
        path,
        error("E", "f", {"id": 7, "username": "al", "ip_address": "203.0.113.7"}),
        error("E", "f", {"id": "7", "name": "Al", "ip_address": "203.0.113.8"}),
        error("E", "f", {"ip_address": "203.0.113.9"}),
    )
    index.catch_up()
    (user,) = Lists(path).users().rows

    assert (user.identity, user.name, user.reports) == ("id:7", "Al", 2)
    assert user.addresses == [("203.0.113.8", 1), ("203.0.113.7", 1)]


@pytest.mark.parametrize("name", ["problems", "users", "timeline"])
def test_pages_go_on_from_a_key(path: Path, index: ReportIndex, name: str) -> None:
    """Each page begins where the one before ended, and all have every row once."""
    write(path, *(error(f"E{n}", "f", {"id": n}, timestamp=START + n // 3) for n in range(130)))
    index.catch_up()
    walk = getattr(Lists(path), name)
    page = walk()
    keys = [row[0] for row in page.rows]
    while page.after:
        page = walk(after=page.after)
        keys += [row[0] for row in page.rows]

    assert len(keys) == len(set(keys)) == 130


def test_an_app_that_makes_room(path: Path, index: ReportIndex) -> None:
    """What an app deletes leaves every list, whether it knows of the inspector or not."""
    write(path, *(error("E", "f", {"id": str(n % 3)}) for n in range(9)))
    index.catch_up()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM reports WHERE identity IN ('id:0', 'id:2')")
    lists = Lists(path)

    assert [user.identity for user in lists.users().rows] == ["id:1"]
    assert [(row.reports, row.users) for row in lists.problems().rows] == [(3, 1)]
    assert lists.totals()[:3] == (3, 1, 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.booleans()),
        max_size=12,
    )
)
def test_counts_are_those_of_the_reports(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]]
) -> None:
    """After any writes and deletions the tables are those that a new index would make."""
    path = tmp_path_factory.mktemp("index") / "reports.db"
    SentryClient(f"sqlite:///{path}").close()
    with closing(ReportIndex(path)) as index:
        for number, (kind, user, hour, is_deleted) in enumerate(steps):
            person = {"id": user, "ip_address": f"203.0.113.{hour}"} if user else None
            moment = START + 3600 * hour
            event_id = f"{number:032x}"
            write(path, error(f"E{kind}", "f", person, timestamp=moment, event_id=event_id))
            index.catch_up()
            if is_deleted:
                delete(path, number // 2)
        tables = contents(path)
    assert tables == rebuilt(path)


def delete(path: Path, number: int) -> None:
    """Delete a report, if it is there."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM reports WHERE event_id = ?", (f"{number:032x}",))


def contents(path: Path) -> dict[str, Any]:
    """Return what the tables hold, but for the numbers of problems."""
    queries = {
        "problems": "SELECT kind, frame, reports, users, first, last FROM inspector_problems",
        "hours": "SELECT kind, hour, h.reports FROM inspector_hours h JOIN inspector_problems "
        "USING (problem)",
        "users": "SELECT identity, reports, last FROM inspector_users",
        "addresses": "SELECT identity, address, reports FROM inspector_addresses",
        "affected": "SELECT kind, identity, u.reports FROM inspector_problem_users u "
        "JOIN inspector_problems USING (problem)",
        "fields": "SELECT * FROM inspector_fields",
        "totals": "SELECT * FROM inspector_totals",
    }
    with closing(sqlite3.connect(path)) as connection:
        return {name: sorted(connection.execute(query)) for name, query in queries.items()}


def rebuilt(path: Path) -> dict[str, Any]:
    """Return what they hold after they were made new, as for a file of another version."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE inspector_file SET version = 0")
    with closing(ReportIndex(path)) as index:
        while index.catch_up():
            pass
    return contents(path)


def test_a_file_of_an_earlier_version(path: Path) -> None:
    """A file that an app of 0.1 has filled is taken in when it is first looked at."""
    write(path, *(error("E", "f", {"id": n}) for n in range(1200)))
    with closing(ReportIndex(path)) as index:
        assert index.left() == 1200
        assert [index.catch_up() for _ in range(4)] == [500, 500, 200, 0]
    assert Lists(path).totals().reports == 1200


def test_broken_payloads(path: Path, index: ReportIndex) -> None:
    """A payload that is not an event is a report like any other."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, payload in enumerate(("", "[", "7", "null", "{}", '{"user": 7}', "[1]")):
            connection.execute(
                "INSERT INTO reports VALUES (?, ?, NULL, ?)", (f"x{number}", START, payload)
            )
    index.catch_up()

    assert Lists(path).totals().reports == 7


def test_search(path: Path, index: ReportIndex) -> None:
    """Errors, functions, users by any field, addresses, paths and ids are found."""
    user = {"id": "7", "email": "al@example.com", "ip_address": "203.0.113.7"}
    write(path, error("KeyError", "order", user, transaction="/orders/7", event_id="ab" * 16))
    index.catch_up()
    lists = Lists(path)

    assert [row.kind for row in lists.search("keyerr").problems] == ["KeyError"]
    assert [row.frame for row in lists.search("shop:order").problems] == ["shop:order"]
    for text in ("al@example", "203.0.113.7"):
        assert [row.identity for row in lists.search(text).users] == ["id:7"]
    for text in ("/orders/7", "abababab", "AB" * 16):
        assert [row.place for row in lists.search(text).reports] == ["/orders/7"]
    assert lists.search("nothing")[:3] == ([], [], [])


def test_an_outbox(tmp_path: Path) -> None:
    """An outbox is told apart: its reports are on their way."""
    pytest.importorskip("httpx")
    path = tmp_path / "outbox.db"
    client = SentryClient("http://key@127.0.0.1:9/1", outbox=path)
    client.capture_message("x")
    client.close(10.0)

    with pytest.raises(ConfigurationError, match="is an outbox"):
        ReportIndex(path)


def test_bare_texts_use_the_index(path: Path, index: ReportIndex) -> None:
    """Once indexed, any of a user's fields is found without a look at the payloads."""
    from usercontext.inspector.selection import Selection, select_reports

    write(path, error("E", "f", {"id": 7, "email": "al@example.com"}, event_id="1" * 32))
    index.catch_up()
    write(path, error("E", "f", {"id": 8, "email": "al@example.com"}, event_id="2" * 32))
    found = select_reports(path, Selection(user="al@example.com"))

    assert [event["user"]["id"] for event in found] == [7, 8]
