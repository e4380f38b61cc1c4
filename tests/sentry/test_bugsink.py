"""Reports as a real server of the Sentry protocol stores them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import asgi_request, plain_asgi_app, scope_of
from tests.sentry import bugsink_server
from usercontext import RequestData, asgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usercontext.sentry import SentryClient

pytest.importorskip("bugsink")
pytest.importorskip("waitress")


class Bugsink:
    """A running server, and what it has stored."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn = dsn
        self.database = directory / "db.sqlite3"

    def event(self, event_id: str | None) -> Any:
        """Return a stored event."""
        assert event_id is not None
        with closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT data FROM events_event WHERE replace(event_id, '-', '') = ?"
            ((data,),) = connection.execute(query, (event_id,)).fetchall()
        return json.loads(data)

    def tags(self, event_id: str | None) -> dict[str, str]:
        """Return the tags that the server has given an event."""
        assert event_id is not None
        with closing(sqlite3.connect(self.database)) as connection:
            query = """
                SELECT key.key, value.value FROM tags_eventtag AS tag
                JOIN tags_tagvalue AS value ON value.id = tag.value_id
                JOIN tags_tagkey AS key ON key.id = value.key_id
                JOIN events_event AS event ON event.id = tag.event_id
                WHERE replace(event.event_id, '-', '') = ?
            """
            return dict(connection.execute(query, (event_id,)).fetchall())


@pytest.fixture(scope="module")
def bugsink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bugsink]:
    """A server for the tests of this module."""
    directory = tmp_path_factory.mktemp("bugsink")
    command = [sys.executable, bugsink_server.__file__, str(directory)]
    log = directory / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            dsn = process.stdout.readline().strip()
            assert dsn, log.read_text()
            yield Bugsink(dsn, directory)
        finally:
            process.kill()


@pytest.fixture
def client(bugsink: Bugsink, make_client: Callable[..., SentryClient]) -> SentryClient:
    """A client of that server."""
    return make_client(bugsink.dsn, max_queue=1000)


USERS: dict[str, dict[str, Any]] = {
    "all fields": {
        "id": "7",
        "username": "al",
        "email": "al@example.com",
        "name": "Al Ü. 🐍",
        "ip_address": "203.0.113.7",
    },
    "an id": {"id": "0"},
    "an address": {"ip_address": "2001:db8::7"},
    "extras": {"id": "7", "plan": "pro", "roles": ["a", "b"], "limits": {"a": 1.5, "b": None}},
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_user(bugsink: Bugsink, client: SentryClient, user: dict[str, Any]) -> None:
    """A user is stored as it was given."""
    event_id = client.capture_message("hello", user=user)
    assert client.flush(30.0)

    assert client.stats()["sent"] == 1
    assert bugsink.event(event_id)["user"] == user


def test_auto_is_the_clients_address(bugsink: Bugsink) -> None:
    """Not the app's own server, which Bugsink takes `{{auto}}` for."""
    usercontext.init(bugsink.dsn, request_data=RequestData(include_ip=True))
    sent: list[str | None] = []

    def handler() -> None:
        usercontext.set_user({"id": "ada", "ip_address": "{{auto}}"})
        sent.append(usercontext.capture_message("hello"))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler)), scope_of())
    assert usercontext.flush(60.0)

    assert bugsink.event(sent[0])["user"] == {"id": "ada", "ip_address": "203.0.113.9"}
    assert bugsink.tags(sent[0])["user.ip_address"] == "203.0.113.9"


def test_every_report_names_its_own_user(bugsink: Bugsink) -> None:
    """Reports of users in many threads each name their own."""
    usercontext.init(bugsink.dsn, max_queue=1000)
    barrier = threading.Barrier(8)
    users: dict[str, str | None] = {}

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(3):
            user = None if number == 0 else {"id": f"user-{number}-{turn}"}
            with usercontext.isolation_scope(user):
                event_id = usercontext.capture_exception(ValueError(str(number)))
            assert event_id is not None
            users[event_id] = None if user is None else user["id"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usercontext.flush(60.0)
    stored = {event_id: bugsink.event(event_id).get("user") for event_id in users}

    assert len(stored) == 24
    assert {event_id: user and user["id"] for event_id, user in stored.items()} == users


def test_exception(bugsink: Bugsink, client: SentryClient) -> None:
    """A group with causes is stored with all its members and frames."""
    try:
        raise ExceptionGroup("group", [ValueError("a"), KeyError("b")]) from OSError("cause")
    except ExceptionGroup as error:
        event_id = client.capture_exception(error, handled=False)
    assert client.flush(30.0)
    values = bugsink.event(event_id)["exception"]["values"]

    assert [value["type"] for value in values] == [
        "KeyError", "ValueError", "OSError", "ExceptionGroup",
    ]  # fmt: skip
    assert values[-1]["stacktrace"]["frames"][-1]["context_line"].strip().startswith("raise")


def test_odd_values(bugsink: Bugsink, client: SentryClient) -> None:
    """An event with whatever JSON has no word for is stored."""
    event = client.build_message("x\ud800y")
    assert event is not None
    event["extra"] = {"nan": float("nan"), "long": 10**30, "bytes": b"\xff", "\udfff": object}
    event_id = client.send(event)
    assert client.flush(30.0)

    assert bugsink.event(event_id)["logentry"]["formatted"] == "x\ufffdy"
    assert bugsink.event(event_id)["extra"]["long"] == str(10**30)


def test_large_event(bugsink: Bugsink, client: SentryClient) -> None:
    """An event above 1 MiB is stored without what made it so."""
    event = client.build_message("large")
    assert event is not None
    event["extra"] = {"a": "x" * 3_000_000}
    event["user"] = {"id": "7"}
    event_id = client.send(event)
    assert client.flush(30.0)

    assert bugsink.event(event_id)["user"] == {"id": "7"}
    assert "extra" not in bugsink.event(event_id)


def test_largest_event(bugsink: Bugsink, client: SentryClient) -> None:
    """What we take for 1 MiB, the server does too."""
    event = client.build_message("largest")
    assert event is not None
    event["sdk"] = {"name": "usercontext.python", "version": usercontext.__version__}
    event["sdk"]["settings"] = {"infer_ip": "never"}  # type: ignore[index]
    event["extra"] = {"a": ""}
    event["extra"]["a"] = "x" * ((1 << 20) - len(usercontext.sentry.encode_event(event) or b""))
    event_id = client.send(event)
    assert client.flush(30.0)

    assert "extra" in bugsink.event(event_id)


def test_client_report(bugsink: Bugsink, client: SentryClient) -> None:
    """An envelope that also tells of discarded events is taken."""
    client._outgoing.transport.discard("sample_rate")  # type: ignore[union-attr]
    event_id = client.capture_message("after")
    assert client.flush(30.0)

    assert client.stats()["sent"] == 1
    assert bugsink.event(event_id)


def test_a_file_moves_to_a_server(bugsink: Bugsink, tmp_path: Path) -> None:
    """What a file has kept is stored by a server under its own id and time, with its user."""
    from usercontext.cli import main
    from usercontext.sentry import read_reports

    path = tmp_path / "reports.db"
    usercontext.init(f"sqlite:///{path}")
    for number in range(3):
        with usercontext.isolation_scope({"id": number, "email": f"{number}@example.com"}):
            usercontext.capture_exception(ValueError(number))
    usercontext.close(10.0)

    assert main(["verify", bugsink.dsn]) == 0
    assert main(["reports", "send", str(path), "--dsn", bugsink.dsn]) == 0
    for report in read_reports(path):
        stored = bugsink.event(report["event_id"])
        assert (stored["user"], stored["timestamp"]) == (report["user"], report["timestamp"])
