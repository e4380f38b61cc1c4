"""The outbox: what it keeps, when it is sent, and what becomes of it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import Answer, SentryServer, serving
from usercontext.exceptions import ConfigurationError
from usercontext.sentry import SentryClient, read_reports
from usercontext.sentry.delivery import (
    directory_lock,
    forwarder,
    http,
    outbox,
    outbox_file,
    owners,
    pace,
)
from usercontext.sentry.delivery.build import OpenOutbox
from usercontext.sentry.delivery.outbox import Bounds, Outbox
from usercontext.sentry.delivery.outbox_status import clear_outbox, outbox_status
from usercontext.sentry.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("httpx")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The outbox's file."""
    return tmp_path / "outbox.db"


@pytest.fixture
def client(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> SentryClient:
    """A client of the server with an outbox."""
    return make_client(server.dsn, outbox=path)


def hung_up(server: SentryServer, times: int = 1000) -> None:
    """Have a server hang up on every request to come."""
    server.answers += [Answer(fault="hang_up") for _ in range(times)]


def is_balanced(stats: dict[str, Any]) -> bool:
    """Return whether every event captured is accounted for."""
    known = stats["sent"] + stats["queued"] + sum(stats["discarded"].values())
    return bool(stats["captured"] == known)


def ids(path: Path) -> list[str]:
    """Return the ids of what waits."""
    return [report["event_id"] for report in read_reports(path)]


def test_sent_by_way_of_the_file(server: SentryServer, client: SentryClient, path: Path) -> None:
    """While the server answers, nothing stays in the file."""
    event_id = client.capture_message("x")

    assert client.flush(10.0)
    assert [event["event_id"] for event in server.events] == [event_id]
    assert ids(path) == []
    assert client.stats() == {"captured": 1, "sent": 1, "queued": 0, "discarded": {}}


def test_kept_during_an_outage(
    server: SentryServer, client: SentryClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be sent waits in the file, counted as queued, and the log says so once."""
    hung_up(server)
    events = [client.capture_message("x") for _ in range(3)]

    assert client.flush(10.0)
    assert client.flush(10.0)
    assert ids(path) == events
    assert client.stats() == {"captured": 3, "sent": 0, "queued": 3, "discarded": {}}
    assert caplog.text.count("keeps reports in") == 1


def test_sent_after_an_outage(server: SentryServer, client: SentryClient, path: Path) -> None:
    """It is sent, oldest first, when the server is back, under the same ids."""
    hung_up(server)
    events = [client.capture_message("x") for _ in range(3)]
    client.flush(10.0)
    server.answers.clear()

    assert client.flush(10.0)
    assert [event["event_id"] for event in server.events] == events
    assert ids(path) == []
    assert client.stats() == {"captured": 3, "sent": 3, "queued": 0, "discarded": {}}


def test_tried_again_by_itself(
    server: SentryServer, client: SentryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs to flush for that."""
    monkeypatch.setattr(pace, "_FIRST_PAUSE", 0.01)
    hung_up(server, 3)
    client.capture_message("x")

    assert server.arrived.acquire(timeout=10)
    assert server.faults == 3


def test_sent_by_the_next_process(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """What one client leaves, the next sends without being asked, once."""
    first = make_client(server.dsn, outbox=path)
    hung_up(server)
    event_id = first.capture_message("x")
    first.close(10.0)
    server.answers.clear()
    second = make_client(server.dsn, outbox=path)

    assert server.arrived.acquire(timeout=10)
    assert second.flush(10.0)
    assert [event["event_id"] for event in server.events] == [event_id]
    assert second.stats() == {"captured": 1, "sent": 1, "queued": 0, "discarded": {}}


REFUSED = {
    "400": ([Answer(400), Answer(400)], {"send_error": 2}),
    "413": ([Answer(413), Answer(413)], {"send_error": 2}),
    "500": ([Answer(500), Answer(503)], {"send_error": 2}),
    "429": ([Answer(429, {"Retry-After": "60"})], {"ratelimit_backoff": 2}),
}


@pytest.mark.parametrize(("answers", "discarded"), REFUSED.values(), ids=REFUSED)
def test_refused(
    server: SentryServer,
    client: SentryClient,
    path: Path,
    answers: list[Answer],
    discarded: dict[str, int],
) -> None:
    """What the server refuses, now or for a while, is discarded and counted, not kept."""
    hung_up(server)
    for _ in range(2):
        client.capture_message("x")
    client.flush(10.0)
    server.answers[:] = list(answers)

    assert client.flush(10.0)
    assert ids(path) == []
    assert client.stats()["discarded"] == discarded
    assert is_balanced(client.stats())


def test_safe_while_the_server_is_slow(
    server: SentryServer, client: SentryClient, path: Path
) -> None:
    """A server that takes its time keeps nothing out of the file."""
    server.answering.clear()
    events = [client.capture_message("x") for _ in range(20)]

    assert client.flush(0.5)
    assert ids(path) == events


def test_same_event_twice(server: SentryServer, client: SentryClient) -> None:
    """An event submitted twice is sent once, and counted as it was submitted."""
    server.answering.clear()
    event = client.build_message("x")
    assert event is not None
    client.send(dict(event))
    client.send(dict(event))
    client.flush(0.2)
    server.answering.set()

    assert client.flush(10.0)
    assert len(server.received) == 1
    assert client.stats() == {"captured": 2, "sent": 2, "queued": 0, "discarded": {}}


def test_another_server(
    server: SentryServer, client: SentryClient, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """What waits for one server is never sent to another."""
    hung_up(server)
    client.capture_message("x")
    client.close(10.0)
    with serving() as other:
        assert make_client(other.dsn, outbox=path).flush(10.0)
        assert other.received == []

    assert len(ids(path)) == 1


# Bounds


def test_number_is_bounded(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """Of too many reports the oldest go, and are counted."""
    client = make_client(server.dsn, outbox=path, max_reports=5)
    hung_up(server)
    events = [client.capture_message("x") for _ in range(12)]
    client.flush(10.0)

    assert ids(path) == events[-5:]
    assert client.stats()["discarded"] == {"queue_overflow": 7}
    assert is_balanced(client.stats())


def test_size_is_bounded(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """So do they in a file that would grow too large."""
    client = make_client(server.dsn, outbox=path, max_reports=10, max_outbox_bytes=100_000)
    hung_up(server)
    for _ in range(40):
        event = client.build_message("x")
        assert event is not None
        client.send({**event, "extra": {"text": "x" * 20_000}})
    client.flush(10.0)

    assert path.stat().st_size < 300_000
    assert 1 <= len(ids(path)) <= 6
    assert is_balanced(client.stats())


def test_age_is_bounded(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """So do those that are too old."""
    client = make_client(server.dsn, outbox=path, max_reports=9, max_age=3600)
    hung_up(server)
    for age in (7200, 60):
        event = client.build_message(str(age))
        assert event is not None
        client.send({**event, "timestamp": time.time() - age})
    client.flush(10.0)

    assert [report["logentry"]["formatted"] for report in read_reports(path)] == ["60"]
    assert client.stats()["discarded"] == {"queue_overflow": 1}


def left_long_ago(server: SentryServer, path: Path) -> None:
    """Leave a report that is fifty days old."""
    box = Outbox(path, Dsn(server.dsn).public, bounds=Bounds(max_age=1e9))
    event = {"event_id": "a" * 32, "timestamp": time.time() - 50 * 86_400.0}
    box.keep([(event, json.dumps(event).encode())])
    box.release()
    box.file.database.close()


def test_age_of_what_was_left(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """What an earlier process left is not sent, but counted, once it is too old."""
    left_long_ago(server, path)
    client = make_client(server.dsn, outbox=path)

    assert client.flush(10.0)
    assert server.received == []
    assert ids(path) == []
    assert client.stats()["discarded"] == {"queue_overflow": 1}
    assert is_balanced(client.stats())


def test_age_on_the_command_line(server: SentryServer, path: Path) -> None:
    """The command line does not know the app's bounds, and sends whatever waits."""
    left_long_ago(server, path)
    opened = OpenOutbox(path, Dsn(server.dsn).public)
    opened.outbox.adopt()

    assert opened.outbox.waiting() == 1
    assert list(opened.send_all()) == [0]
    opened.close()
    assert len(server.received) == 1


def test_cleared_meanwhile(server: SentryServer, client: SentryClient, path: Path) -> None:
    """What another process deletes is counted."""
    hung_up(server)
    client.capture_message("x")
    client.flush(10.0)

    assert clear_outbox(path) == 1
    assert client.flush(10.0)
    assert client.stats()["discarded"] == {"queue_overflow": 1}
    assert is_balanced(client.stats())


# Several processes


def kept(path: Path, target: str = "https://key@host/1", number: int = 1) -> Outbox:
    """Return an outbox that keeps reports for a server."""
    box = Outbox(path, target)
    for _ in range(number):
        box.keep([({"event_id": os.urandom(16).hex()}, b"{}")])
    return box


def test_leased(path: Path) -> None:
    """A report belongs to who keeps it, as long as that process lives."""
    first, second = kept(path), kept(path)
    second.adopt()

    assert first.waiting() == second.waiting() == 1
    assert outbox_status(path).claimed == 2


def test_left(path: Path) -> None:
    """Who goes leaves it to the next one."""
    first, second = kept(path), kept(path)
    first.release()
    second.adopt()

    assert (first.waiting(), second.waiting()) == (0, 2)


def test_lease_at_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does who has not been seen for a minute, be it on another host."""
    monkeypatch.setattr(owners, "_HOST", "elsewhere")
    first = kept(path)
    monkeypatch.undo()
    second = kept(path)
    second.adopt()
    assert second.waiting() == 1
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE owners SET until = until - 100")
    second.renew()
    second.adopt()

    assert (first.waiting(), second.waiting()) == (0, 2)


def test_room_made_by_others(path: Path) -> None:
    """What of a living process makes room for another's is counted by that process alone."""
    first = kept(path, number=3)
    second = Outbox(path, "https://key@host/1", bounds=Bounds(max_reports=1))

    assert second.keep([({"event_id": "a" * 32}, b"{}")]) == ([True], [])
    assert first.waiting() == 0


def test_room_made_by_others_during_an_outage(
    server: SentryServer, client: SentryClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have deleted is counted, and forgotten, while there is more that waits."""
    monkeypatch.setattr(forwarder, "_RENEW_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "_ASKED_AT_ONCE", 2)
    hung_up(server)
    events = [client.capture_message("x") for _ in range(7)]
    client.flush(10.0)
    other = Outbox(path, "https://key@host/1", bounds=Bounds(max_reports=3))

    assert other.keep([({"event_id": "a" * 32}, b'{"event_id": "a"}')]) == ([True], [])
    client.flush(10.0)
    assert ids(path) == [*events[5:], "a"]
    assert client.stats() == {
        "captured": 7, "sent": 0, "queued": 2, "discarded": {"queue_overflow": 5}
    }  # fmt: skip
    assert client._outgoing.transport.destination.kept.ids() == events[5:]  # type: ignore[union-attr]


def test_room_made_by_the_dead(path: Path) -> None:
    """What nobody else can count is counted by who deletes it."""
    kept(path, number=3).release()
    second = Outbox(path, "https://key@host/1", bounds=Bounds(max_reports=1))

    assert len(second.keep([({"event_id": "a" * 32}, b"{}")])[1]) == 3


KEEPER = """
import os, sys
from usercontext.sentry import SentryClient
client = SentryClient(sys.argv[1], outbox=sys.argv[2])
for number in range(5):
    client.capture_message(str(number))
assert client.flush(10)
os._exit(0)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)


def test_dead_process(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """What a process kept that ended by `os._exit` is sent by another one, at once."""
    hung_up(server)
    run(KEEPER, server.dsn, path)
    server.answers.clear()

    assert make_client(server.dsn, outbox=path).flush(10.0)
    assert [event["logentry"]["formatted"] for event in server.events] == list("01234")


def test_later_process_of_the_same_pid(path: Path) -> None:
    """A process is not taken for an earlier one of the same pid."""
    first = kept(path)
    host, pid, _, token = first.owner.split("/")
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("reports", "owners"):
            connection.execute(f"UPDATE {table} SET owner = ?", (f"{host}/{pid}/7/{token}",))
    second = kept(path)
    second.adopt()

    assert second.waiting() == (2 if os.path.exists("/proc/self/stat") else 1)  # noqa: PTH110


def test_processes_share_a_file(server: SentryServer, path: Path) -> None:
    """Workers that share a file send each report once."""
    command = [sys.executable, "-c", KEEPER, server.dsn, str(path)]
    workers = [subprocess.Popen(command) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    sent = [event["event_id"] for event in server.events]

    assert len(sent) == len(set(sent)) == 20
    assert ids(path) == []


# Files that cannot be used


CORRUPT = {
    "no database": b"not a database at all " * 100,
    "a damaged one": b"SQLite format 3\0" + b"x" * 5000,
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_corrupt(
    server: SentryServer,
    path: Path,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    """A corrupt file is set aside, which the log says, and capturing goes on."""
    path.write_bytes(content)
    client = make_client(server.dsn, outbox=path)
    client.capture_message("x")

    assert client.flush(10.0)
    assert len(server.received) == 1
    (aside,) = path.parent.glob("outbox.db.corrupt-*")
    assert aside.read_bytes() == content
    assert caplog.text.count("is corrupt: it is set aside") == 1
    assert str(aside) in caplog.text


def test_corrupted_meanwhile(server: SentryServer, client: SentryClient, path: Path) -> None:
    """So is one that is damaged while it is used; what it held is counted."""
    hung_up(server)
    client.capture_message("lost")
    client.flush(10.0)
    client._outgoing.transport.destination.outbox.file.database.close()  # type: ignore[union-attr]
    path.write_bytes(CORRUPT["a damaged one"])
    server.answers.clear()
    client.capture_message("kept")

    assert client.flush(10.0)
    assert [event["logentry"]["formatted"] for event in server.events] == ["kept"]
    assert client.stats()["discarded"] == {"queue_overflow": 1}
    assert is_balanced(client.stats())


def test_set_aside_once(path: Path) -> None:
    """What two processes find to be corrupt one of them sets aside, not the new file as well."""
    first, second = kept(path), kept(path)
    first.file.set_aside()
    first.keep([({"event_id": "1"}, b"{}")])
    second.file.set_aside()
    second.keep([({"event_id": "2"}, b"{}")])

    assert len(list(path.parent.glob("outbox.db.corrupt-*[0-9]"))) == 1
    assert sum(outbox_status(path).waiting.values()) == 2


STARTER = """
import sys, uuid
from usercontext.sentry.delivery.outbox import Outbox
outbox = Outbox(sys.argv[1], "http://localhost/1")
print("ready", flush=True)
sys.stdin.readline()
outbox.keep([({"event_id": uuid.uuid4().hex}, b"{}")])
outbox.file.database.close()
"""


def test_processes_find_a_corrupt_file(path: Path) -> None:
    """Workers that start together on a corrupt file set it aside once, and lose nothing."""
    path.write_bytes(CORRUPT["no database"])
    command = [sys.executable, "-c", STARTER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.close()
    with ExitStack() as closed:
        codes = [closed.enter_context(worker).wait(60) for worker in workers]

    assert codes == [0] * 6
    assert outbox_status(path).waiting == {"http://localhost/1": 6}
    assert len(list(path.parent.glob("outbox.db.corrupt-*"))) == 1


@pytest.mark.parametrize(
    "replaced",
    [lambda box: box.file.set_aside(), lambda box: box.file.path.unlink()],
    ids=["set_aside", "deleted"],
)
def test_lease_in_the_new_file(path: Path, replaced: Callable[[Outbox], object]) -> None:
    """A process whose file was replaced renews its lease there, and keeps what it writes then."""
    first, second = kept(path), kept(path)
    replaced(first)
    second.keep([({"event_id": "1"}, b"{}")])
    third = Outbox(path, "https://key@host/1")
    third.adopt()

    assert (second.waiting(), third.waiting()) == (1, 0)


def test_directory_that_cannot_be_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock, as in a directory that may not be listed, reports are kept all the same."""
    monkeypatch.setattr(directory_lock, "os", Unlisted)

    assert kept(path).waiting() == 1


class Unlisted:
    """The part of `os` that opens, without the right to."""

    O_RDONLY = os.O_RDONLY

    @staticmethod
    def open(path: Path, flags: int) -> int:
        """Refuse."""
        raise PermissionError(path)


@pytest.mark.parametrize("seconds", [0.2, 60.0], ids=["released", "held"])
def test_opened_while_files_are_renamed(path: Path, seconds: float) -> None:
    """A process that sets a file aside is waited for, but not for ever."""
    fcntl = pytest.importorskip("fcntl")
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    done = threading.Timer(seconds, fcntl.flock, (directory, fcntl.LOCK_UN))
    done.start()
    begun = time.monotonic()
    box = kept(path)
    done.cancel()
    os.close(directory)

    assert 0.1 < time.monotonic() - begun < 30
    assert box.waiting() == 1


def test_deleted_meanwhile(server: SentryServer, client: SentryClient, path: Path) -> None:
    """A file deleted under us is made anew."""
    client.capture_message("x")
    client.flush(10.0)
    for file in path.parent.iterdir():
        file.unlink()
    client.capture_message("y")

    assert client.flush(10.0)
    assert len(server.received) == 2
    assert path.exists()


def full(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an outbox's file grow no more, as on a full disk."""
    prepare = outbox_file._prepare

    def prepare_full(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.execute("PRAGMA max_page_count = 1")

    monkeypatch.setattr(outbox_file, "_prepare", prepare_full)
    box.file.database.close()


def test_disk_full(
    server: SentryServer,
    client: SentryClient,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk events are sent without the file, and the log says so once."""
    full(client._outgoing.transport.destination.outbox, monkeypatch)  # type: ignore[union-attr]
    for _ in range(3):
        event = client.build_message("x")
        assert event is not None
        client.send({**event, "extra": {"text": "x" * 20_000}})

    assert client.flush(10.0)
    assert len(server.received) == 3
    assert caplog.text.count("cannot use the outbox") == 1
    assert is_balanced(client.stats())


def test_limit_of_file_sizes(server: SentryServer, path: Path) -> None:
    """So they are where the system lets no file grow."""
    script = """
import resource
client = SentryClient(sys.argv[1], outbox=sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
"""
    pytest.importorskip("resource")
    run(KEEPER.replace("client = SentryClient(sys.argv[1], outbox=sys.argv[2])", script),
        server.dsn, path)  # fmt: skip

    assert [event["logentry"]["formatted"] for event in server.events] == list("01234")


def test_cannot_be_removed(
    server: SentryServer, client: SentryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent and cannot be removed is not sent again by this process."""

    def fail(event_id: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(client._outgoing.transport.destination.outbox, "remove", fail)  # type: ignore[union-attr]
        client.capture_message("x")
        for _ in range(3):
            client.flush(10.0)
    client.capture_message("y")

    assert client.flush(10.0)
    assert [event["logentry"]["formatted"] for event in server.events] == ["x", "y"]
    assert client.stats() == {"captured": 2, "sent": 2, "queued": 0, "discarded": {}}


def test_locked(
    server: SentryServer, client: SentryClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that another program locks for long costs the file's protection alone."""
    monkeypatch.setattr("usercontext.sentry.delivery.database._BUSY_SECONDS", 0.01)
    client.capture_message("x")
    client.flush(10.0)
    client._outgoing.transport.destination.outbox.file.database.close()  # type: ignore[union-attr]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        client.capture_message("y")

        assert client.flush(10.0)
        assert len(server.received) == 2


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have another process lock a file for the block."""
    command = [sys.executable, "-c", LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        yield
        locker.communicate()


def test_oldest_is_dropped_while_locked(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """While another process locks the file, memory holds the newest, and all are counted."""
    client = make_client(server.dsn, outbox=path, max_queue=10, overflow="drop_oldest")
    client.capture_message("makes the file")
    client.flush(10.0)
    client._outgoing.transport.destination.outbox.file.database.close()  # type: ignore[union-attr]
    with locked(path):
        for number in range(500):
            client.capture_message(str(number))
            assert is_balanced(client.stats())
        stats = client.stats()
        waiting = len(client._outgoing.transport.queue)  # type: ignore[union-attr]
    assert client.flush(20.0)
    sent = [event["logentry"]["formatted"] for event in server.events]

    assert waiting <= 10
    assert stats["queued"] <= 11
    assert sorted(map(int, sent[-10:])) == list(range(490, 500))
    assert is_balanced(client.stats())
    assert client.stats()["captured"] == 501
    assert ids(path) == []


def test_close_while_locked(
    server: SentryServer,
    path: Path,
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing waits for a locked file once, not with each event that is left."""
    client = make_client(server.dsn, outbox=path)
    transport: Any = client._outgoing.transport  # type: ignore[union-attr]
    client.capture_message("makes the file")
    client.flush(10.0)
    monkeypatch.setattr(transport.worker, "start", lambda: True)
    monkeypatch.setattr("usercontext.sentry.delivery.database._BUSY_SECONDS", 0.2)
    transport.destination.outbox.file.database.close()
    transport.queue.close()  # for its threads, which hold the file no more
    assert transport.worker.wait(10)
    transport.queue.is_closed = False
    for _ in range(50):
        client.capture_message("x")
    with locked(path):
        started = time.monotonic()
        client.close(0.0)
        taken = time.monotonic() - started

    assert taken < 5  # fifty times as long: 10 s
    assert client.stats()["discarded"] == {"network_error": 50}
    assert is_balanced(client.stats())


@pytest.mark.parametrize("method", ["flush", "close"])
def test_in_time_while_locked(client: SentryClient, path: Path, method: str) -> None:
    """Whoever flushes or closes waits no longer than told, whatever our threads wait for."""
    client.capture_message("makes the file")
    client.flush(10.0)
    client._outgoing.transport.destination.outbox.file.database.close()  # type: ignore[union-attr]
    with locked(path):
        for _ in range(20):
            client.capture_message("x")
        started = time.monotonic()
        in_time = getattr(client, method)(0.3)
        taken = time.monotonic() - started

    assert not in_time
    assert taken < 2.5  # SQLite would wait for 5 s, once in each thread
    assert is_balanced(client.stats())


@pytest.mark.parametrize("name", ["none/outbox.db", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    """A file that there cannot be is refused when the client is built."""
    with pytest.raises(ConfigurationError, match="name a file"):
        SentryClient("https://key@host/1", outbox=tmp_path / name)


def test_outbox_of_a_file(tmp_path: Path) -> None:
    """A client that keeps its reports in a file needs no outbox."""
    with pytest.raises(ConfigurationError, match="leave it out"):
        SentryClient(f"sqlite:///{tmp_path}/reports.db", outbox=tmp_path / "outbox.db")


# The end


def test_close_keeps(server: SentryServer, client: SentryClient, path: Path) -> None:
    """Closing leaves to the next process what could not be sent in time."""
    server.answering.clear()
    events = [client.capture_message("x") for _ in range(3)]

    assert client.close(0.5)
    assert ids(path) == events
    assert client.capture_message("x") is None
    assert is_balanced(client.stats())


def test_close_keeps_what_is_queued(
    server: SentryServer, client: SentryClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps even what no thread has seen yet."""
    hung_up(server)
    monkeypatch.setattr(client._outgoing.transport.worker, "start", lambda: True)  # type: ignore[union-attr]
    client.capture_message("x")

    assert not client.close(0.0)
    assert len(ids(path)) == 1
    assert is_balanced(client.stats())


def test_no_threads(server: SentryServer, path: Path) -> None:
    """Where no thread can be had, `flush()` keeps and sends."""
    script = """
import sys, threading
from usercontext.sentry import SentryClient
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
client = SentryClient(sys.argv[1], outbox=sys.argv[2])
client.capture_message("x")
assert client.flush(10)
assert client.stats()["sent"] == 1
client.close()
"""
    run(script, server.dsn, path)

    assert len(server.received) == 1


def test_fault_of_ours(
    server: SentryServer,
    client: SentryClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fault of ours stops nothing."""

    def fail(*args: object) -> None:
        raise RuntimeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(http.Sender, "post", fail)
        client.capture_message("x")
        client.flush(10.0)
    assert client.flush(10.0)
    assert len(server.received) == 1
    assert "could not send what is in its outbox" in caplog.text


def test_read_as_reports(server: SentryServer, client: SentryClient, path: Path) -> None:
    """The file is one of reports: whatever reads those reads what waits."""
    hung_up(server)
    client.capture_message("x", user={"id": "7"})
    client.flush(10.0)
    with closing(sqlite3.connect(path)) as connection:
        ((identity, payload),) = connection.execute("SELECT identity, payload FROM reports")

    assert identity == "id:7"
    assert json.loads(payload)["logentry"]["formatted"] == "x"


def test_quiet_when_idle(client: SentryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Without reports the log has nothing to say."""
    caplog.set_level(logging.DEBUG, "usercontext")

    assert client.flush(10.0)
    assert caplog.records == []


# In steps


def row_ids(path: Path) -> list[str]:
    """Return the ids of what waits, whatever their payload says."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM reports ORDER BY rowid")]


def test_adopted_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process left is taken over some at a time, so that nobody waits for long."""
    monkeypatch.setattr(outbox, "_STEP", 3)
    kept(path, number=7).release()
    second = Outbox(path, "https://key@host/1")

    assert second.waiting() == 7
    assert [second.adopt() for _ in range(4)] == [3, 3, 1, 0]
    assert second.waiting() == 7


def test_all_steps_are_sent(
    server: SentryServer,
    path: Path,
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it is sent, oldest first, with what this process keeps meanwhile."""
    monkeypatch.setattr(outbox, "_STEP", 3)
    box = kept(path, Dsn(server.dsn).public, number=7)
    left = row_ids(path)
    box.release()
    client = make_client(server.dsn, outbox=path)
    mine = client.capture_message("x")

    assert client.flush(10.0)
    sent = [received.header["event_id"] for received in server.received]
    assert sorted(sent) == sorted([*left, mine])
    assert client.stats()["sent"] == 8


def test_pruned_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much by far is deleted some at a time, with each report that comes."""
    monkeypatch.setattr(outbox, "_STEP", 3)
    kept(path, number=12).release()
    second = Outbox(path, "https://key@host/1", bounds=Bounds(max_reports=4))
    gone = [len(second.keep([({"event_id": str(n)}, b"{}")])[1]) for n in range(5)]

    assert gone == [3, 3, 3, 3, 1]
    assert len(row_ids(path)) == 4


def test_written_in_one_transaction(path: Path) -> None:
    """Several reports are written at once, and each is known to be new or not."""
    box = kept(path)
    events = [({"event_id": event_id}, b"{}") for event_id in ("a", *row_ids(path), "b")]

    assert box.keep(events) == ([True, False, True], [])
    assert box.waiting() == 3


def test_removed_by_itself_before_it_is_sent(
    server: SentryServer, path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """What makes room while its turn to be sent comes is counted once, and not sent."""
    client = make_client(server.dsn, outbox=path, max_reports=3)
    server.answering.clear()
    events = [client.capture_message(str(number)) for number in range(3)]
    assert server.arrived.acquire(timeout=10)
    later = [client.capture_message(str(number)) for number in range(3, 6)]
    client.flush(0.2)
    server.answering.set()

    assert client.flush(10.0)
    assert client.stats() == {
        "captured": 6, "sent": 3, "queued": 0, "discarded": {"queue_overflow": 3}
    }  # fmt: skip
    sent = [event["event_id"] for event in server.events]
    assert sent == [events[0], *later]  # The first one was on its way.
