"""Reports kept in an SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.exceptions import ConfigurationError
from usercontext.sentry import SentryClient, read_reports
from usercontext.sentry.delivery.reading import follow_reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the reports."""
    return tmp_path / "reports.db"


@pytest.fixture
def client(path: Path, make_client: Callable[..., SentryClient]) -> SentryClient:
    """A client that keeps its reports there."""
    return make_client(f"sqlite:///{path}")


def rows(path: Path, query: str = "SELECT * FROM reports ORDER BY rowid") -> list[Any]:
    """Return what a query finds."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def messages(path: Path) -> list[str]:
    """Return the texts of the messages kept, oldest first."""
    return [report["logentry"]["formatted"] for report in read_reports(path)]


def test_row(client: SentryClient, path: Path) -> None:
    """A report is a row of the documented table."""
    event_id = client.capture_message("hello", user={"id": "7"})
    assert client.flush()
    ((row_id, timestamp, identity, payload),) = rows(path)

    assert row_id == event_id
    assert abs(timestamp - time.time()) < 60
    assert identity == "id:7"
    assert json.loads(payload)["user"] == {"id": "7"}


def test_visible_after_flush(client: SentryClient, path: Path) -> None:
    """Every report is there once `flush()` has returned True, oldest first."""
    for number in range(60):
        client.capture_message(str(number))

    assert client.flush(10.0)
    assert messages(path) == [str(number) for number in range(60)]
    assert client.stats() == {"captured": 60, "sent": 60, "queued": 0, "discarded": {}}


IDENTITIES = {
    "id first": ({"id": "1", "username": "al", "email": "a@b.c"}, "id:1"),
    "username second": ({"username": "al", "email": "a@b.c"}, "username:al"),
    "email third": ({"email": "a@b.c", "ip_address": "203.0.113.7"}, "email:a@b.c"),
    "address last": ({"ip_address": "203.0.113.7"}, "ip:203.0.113.7"),
    "nobody": (None, None),
}


@pytest.mark.parametrize(("user", "identity"), IDENTITIES.values(), ids=IDENTITIES)
def test_identity(client: SentryClient, path: Path, user: Any, identity: str | None) -> None:
    """The identity is the one that a Sentry server would count by."""
    client.capture_message("x", user=user)
    client.flush()

    assert rows(path, "SELECT identity FROM reports") == [(identity,)]


@pytest.mark.parametrize("user", ["text", {"plan": "pro"}, {"id": ""}])
def test_no_identity(client: SentryClient, path: Path, user: Any) -> None:
    """A user that `before_send` spoiled has no identity."""
    event = client.build_message("x")
    assert event is not None
    event["user"] = user
    client.send(event)
    client.flush()

    assert rows(path, "SELECT identity FROM reports") == [(None,)]


def test_wal(client: SentryClient, path: Path) -> None:
    """The file is in WAL mode: readers and writers do not wait for each other."""
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_private(client: SentryClient, path: Path) -> None:
    """The file is its owner's alone: reports name people."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_relative_path(
    tmp_path: Path, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is taken when the client is built, whatever directory comes later."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    client = make_client("sqlite:///reports.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    client.capture_message("x")
    client.flush()

    assert messages(tmp_path / "reports.db") == ["x"]


def test_number_is_bounded(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """Only the newest `max_reports` are kept."""
    client = make_client(f"sqlite:///{path}", max_reports=5)
    for number in range(12):
        client.capture_message(str(number))
    client.flush()

    assert messages(path) == ["7", "8", "9", "10", "11"]


def test_age_is_bounded(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """Only reports younger than `max_age` are kept."""
    client = make_client(f"sqlite:///{path}", max_age=3600)
    for age, text in ((7200, "old"), (60, "young")):
        event = client.build_message(text)
        assert event is not None
        client.send({**event, "timestamp": time.time() - age})
    client.flush()

    assert messages(path) == ["young"]


def test_odd_timestamp(client: SentryClient, path: Path) -> None:
    """A timestamp that `before_send` spoiled is now."""
    event = client.build_message("x")
    assert event is not None
    client.send({**event, "timestamp": "soon"})
    client.flush()

    assert messages(path) == ["x"]


def test_same_event_twice(client: SentryClient, path: Path) -> None:
    """An event submitted twice is kept once."""
    event = client.build_message("x")
    assert event is not None
    client.send(dict(event))
    client.send(dict(event))

    assert client.flush()
    assert messages(path) == ["x"]


WRITER = """
import sys
from usercontext.sentry import SentryClient
client = SentryClient("sqlite:///" + sys.argv[1], max_queue=1000)
for number in range(50):
    client.capture_message(sys.argv[2] + str(number))
sys.exit(not client.flush(30))
"""


def test_processes_share_a_file(path: Path) -> None:
    """Several processes may write to one file at once, and nothing is lost."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert sorted(messages(path)) == sorted(f"{name}{n}" for name in "abcd" for n in range(50))


def test_opened_while_another_begins_it(path: Path) -> None:
    """A new file that another process sets up is waited for; SQLite itself gives up at once."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.3, other.rollback)
        done.start()

        SentryClient(f"sqlite:///{path}").close()
        done.join()

    assert rows(path) == []


def test_threads_share_a_client(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """So may threads."""
    client = make_client(f"sqlite:///{path}", max_queue=1000)
    threads = [
        threading.Thread(target=lambda: [client.capture_message("x") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert client.flush(10.0)
    assert len(messages(path)) == 200


def test_written_at_exit(path: Path) -> None:
    """What is queued when the interpreter ends is written."""
    script = WRITER.rsplit("\n", 2)[0]
    subprocess.run([sys.executable, "-c", script, str(path), "a"], check=True, timeout=60)

    assert len(messages(path)) == 50


# What cannot be written to


def test_no_directory(tmp_path: Path) -> None:
    """A directory that does not exist is refused when the client is built."""
    with pytest.raises(ConfigurationError, match=r"does not exist: make it"):
        SentryClient(f"sqlite:///{tmp_path}/none/reports.db")


def test_a_directory(tmp_path: Path) -> None:
    """So is a directory in the file's place."""
    with pytest.raises(ConfigurationError, match="is a directory: name a file in it"):
        SentryClient(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    """So is a directory without permission."""
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        SentryClient(f"sqlite:///{tmp_path}/reports.db")


def test_no_permission_as_any_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permission is asked for before anything is written."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        SentryClient(f"sqlite:///{tmp_path}/reports.db")

    assert list(tmp_path.iterdir()) == []


def test_not_a_database(path: Path) -> None:
    """So is a file of another kind, which stays as it is."""
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is not an SQLite database"):
        SentryClient(f"sqlite:///{path}")

    assert path.read_text() == "precious"


def test_corrupt_database(path: Path) -> None:
    """So is a database that is corrupt."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE reports (event_id TEXT PRIMARY KEY)")
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"x" * (len(content) - 100))
    with pytest.raises(ConfigurationError, match="cannot be used"):
        SentryClient(f"sqlite:///{path}")


def test_corrupt_header(path: Path) -> None:
    """So is one whose very beginning is."""
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(ConfigurationError, match="is not an SQLite database, or a damaged one"):
        SentryClient(f"sqlite:///{path}")


def test_empty_file(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """An empty file is one to begin with."""
    path.touch()
    client = make_client(f"sqlite:///{path}")
    client.capture_message("x")

    assert client.flush()


def test_deleted_meanwhile(client: SentryClient, path: Path) -> None:
    """A file deleted under us is made anew."""
    client.capture_message("before")
    client.flush()
    for file in path.parent.iterdir():
        file.unlink()
    client.capture_message("after")

    assert client.flush()
    assert messages(path) == ["after"]


def test_corrupted_meanwhile(
    client: SentryClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be written is counted and logged once, and `flush()` says so once."""
    for file in path.parent.iterdir():
        file.unlink()
    path.write_text("something else")
    client.capture_message("x")
    client.capture_message("x")

    assert not client.flush()
    assert client.flush()
    assert client.stats()["discarded"] == {"send_error": 2}
    assert caplog.text.count("cannot write to") == 1


def test_failed_transaction(
    client: SentryClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails half way leaves nothing, and the next one works."""

    def fail(connection: object) -> None:
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(client._outgoing.transport.destination, "prune", fail)  # type: ignore[union-attr]
        client.capture_message("lost")
        assert not client.flush()
    client.capture_message("kept")

    assert client.flush()
    assert messages(path) == ["kept"]


def test_too_large(client: SentryClient, path: Path) -> None:
    """A report above 1 MiB is not kept."""
    event = client.build_message("x")
    assert event is not None
    client.send({**event, "tags": {"a": "x" * 2_000_000}})
    client.flush()

    assert client.stats()["discarded"] == {"send_error": 1}


# Reading


def test_read_by_dsn(client: SentryClient, path: Path) -> None:
    """`read_reports` takes the DSN as well as the path."""
    client.capture_message("x")
    client.flush()

    assert list(read_reports(f"sqlite:///{path}")) == list(read_reports(str(path)))


def test_read_many(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """Any number of reports is read, by their time and not their row."""
    make_client(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO reports VALUES (?, ?, NULL, ?)",
            [(str(n), -n, json.dumps({"logentry": {"formatted": str(n)}})) for n in range(1000)],
        )

    assert messages(path) == [str(n) for n in reversed(range(1000))]


def test_reading_while_writing(client: SentryClient, path: Path) -> None:
    """An iterator that is not finished keeps nobody from writing."""
    for _ in range(3):
        client.capture_message("x")
    client.flush()
    reports = read_reports(path)
    next(reports)
    client.capture_message("y")

    assert client.flush()
    assert len(list(reports)) == 2


def test_read_where_it_is_written(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """A process that reads its own file goes on holding it, whoever else closes it then."""
    client = make_client(f"sqlite:///{path}")
    client.capture_message("before")
    assert client.flush(10)
    assert len(list(read_reports(path))) == 1
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version')"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

    client.capture_message("after")
    assert client.flush(10)
    script = (
        "import sys; from usercontext.sentry import read_reports\n"
        "print(*(report['logentry']['formatted'] for report in read_reports(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert shown.stdout == "before after\n"


def test_two_clients_of_one_file(path: Path, make_client: Callable[..., SentryClient]) -> None:
    """So does one that opens it twice."""
    first, second = (make_client(f"sqlite:///{path}") for _ in range(2))
    for client in (first, second):
        client.capture_message("before")
        assert client.flush(10)
    second.close()
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version')"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

    first.capture_message("after")
    assert first.flush(10)
    assert path.with_name(f"{path.name}-wal").exists()


def test_read_no_file(tmp_path: Path) -> None:
    """Reading a file that does not exist says so at once, and makes none."""
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_reports(tmp_path / "none.db")

    assert list(tmp_path.iterdir()) == []


def test_read_another_file(path: Path) -> None:
    """So does reading a file of another kind."""
    path.write_text("not a database")
    with pytest.raises(ConfigurationError, match="not an SQLite database"):
        read_reports(path)


def test_read_another_database(path: Path) -> None:
    """So does reading a database of something else."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (a)")
    with pytest.raises(ConfigurationError, match="does not hold reports"):
        read_reports(path)


def test_follow(client: SentryClient, path: Path) -> None:
    """Following begins now, and gives each new report once."""
    client.capture_message("before")
    client.flush()
    first, mark = follow_reports(path)
    client.capture_message("after")
    client.flush()
    second, mark = follow_reports(path, mark)
    third, _ = follow_reports(path, mark)

    assert [len(first), len(second), len(third)] == [0, 1, 0]
    assert second[0]["logentry"]["formatted"] == "after"


def test_follow_where_the_newest_was_deleted(client: SentryClient, path: Path) -> None:
    """A report that gets the number of a deleted one is new all the same."""
    client.capture_message("to be deleted")
    client.flush()
    _, mark = follow_reports(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM reports")
    _, mark = follow_reports(path, mark)
    client.capture_message("after")
    client.flush()

    assert [event["logentry"]["formatted"] for event in follow_reports(path, mark)[0]] == ["after"]
