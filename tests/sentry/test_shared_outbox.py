"""An outbox in Redis and in PostgreSQL, on real servers of both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.engines import PostgresServer, RedisServer, Server
from tests.sentry.server import Answer, SentryServer
from usercontext import ConfigurationError, MissingDependencyError, cli
from usercontext.sentry import SentryClient
from usercontext.sentry.delivery import postgres_engine, redis_engine, shared_outbox
from usercontext.sentry.delivery.engine import EngineBounds, EngineError, engine_address
from usercontext.sentry.delivery.forwarding import engine_status
from usercontext.sentry.delivery.shared_outbox import SharedOutbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("httpx")

# Each kind of process is killed that often; `tox run -e outbox-kills` has 100.
KILLS = int(os.environ.get("USERCONTEXT_KILLS", "2"))
ENGINES = {
    "redis": ("redis", RedisServer, redis_engine),
    "postgresql": ("psycopg", PostgresServer, postgres_engine),
}
TARGET = "http://key@127.0.0.1:9/1"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """The engines that have been started, which end with the module."""
    started: dict[str, Server] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """An engine that runs and is empty."""
    package, kind, _ = ENGINES[request.param]
    pytest.importorskip(package)
    if request.param not in servers:
        servers[request.param] = kind()
    server = servers[request.param]
    server.ensure()
    server.empty()
    return server


@pytest.fixture
def redis(servers: dict[str, Server]) -> RedisServer:
    """A Redis that runs and is empty."""
    pytest.importorskip("redis")
    if "redis" not in servers:
        servers["redis"] = RedisServer()
    server = servers["redis"]
    assert isinstance(server, RedisServer)
    server.ensure()
    server.empty()
    return server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try an engine that was away again soon."""
    monkeypatch.setattr(shared_outbox, "_LONGEST_REST", 0.05)
    monkeypatch.setattr(shared_outbox, "_FIRST_REST", 0.05)


def event(number: int) -> tuple[dict[str, Any], bytes]:
    """Return an event and its JSON."""
    event_id = f"{number:032x}"
    return {"event_id": event_id}, b'{"event_id": "%s"}' % event_id.encode()


def fill(outbox: SharedOutbox, number: int, first: int = 0) -> list[str]:
    """Keep some events; return their ids."""
    for start in range(first, first + number, 50):
        outbox.keep(event(each) for each in range(start, min(start + 50, first + number)))
    return [event(each)[0]["event_id"] for each in range(first, first + number)]


def ids(found: list[tuple[str, bytes]]) -> list[str]:
    """Return the ids of what was claimed."""
    return [event_id for event_id, _ in found]


def received(server: SentryServer) -> set[str]:
    """Return the ids of what a server has got."""
    return {each["event_id"] for each in server.events}


def waiting(engine: Server) -> int:
    """Return how many events an engine holds."""
    return sum(each.held.waiting for each in engine_status(engine.url))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what our logger has said."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


def dead_dsn() -> str:
    """Return the DSN of a server that is not there."""
    return TARGET


# --- one process ----------------------------------------------------------------------------------


def test_forwarded(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What a process keeps in an engine, it sends."""
    client = make_client(server.dsn, outbox=engine.url)
    sent = {client.capture_message(f"{number}") for number in range(30)}
    assert client.flush(10.0)
    assert received(server) == sent
    assert client.stats() == {"captured": 30, "sent": 30, "queued": 0, "discarded": {}}


def test_kept_while_the_server_is_away(
    engine: Server, make_client: Callable[..., SentryClient]
) -> None:
    """While the server is away, reports wait in the engine, and count as queued."""
    client = make_client(dead_dsn(), outbox=engine.url)
    for number in range(10):
        client.capture_message(f"{number}")
    assert client.flush(10.0)
    assert client.stats()["queued"] == 10
    (status,) = engine_status(engine.url)
    assert status.held.waiting == 10


def test_sent_by_the_next_process(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What a process has left, the next one sends, before it reports anything itself."""
    fill(SharedOutbox(engine.url, make_client(server.dsn)._target.public), 3)  # type: ignore[union-attr]
    make_client(server.dsn, outbox=engine.url)
    for _ in range(3):
        assert server.arrived.acquire(timeout=10.0)


def test_counted_once_others_have_sent_it(
    engine: Server, make_client: Callable[..., SentryClient]
) -> None:
    """What another process sends of this one's counts as sent, once it is seen to be gone."""
    client = make_client(dead_dsn(), outbox=engine.url)
    client.capture_message("x")
    assert client.flush(10.0)
    assert cli.main(["outbox", "clear", engine.url]) == 0
    assert client.flush(10.0)
    client._outgoing.transport.destination.forwarder._forget_vanished()  # type: ignore[union-attr]
    assert client.stats() == {"captured": 1, "sent": 1, "queued": 0, "discarded": {}}


@forks
def test_fork(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """A child has a connection of its own, and the parent's goes on."""
    client = make_client(server.dsn, outbox=engine.url)
    client.capture_message("parent")
    assert client.flush(10.0)
    pid = os.fork()
    if pid == 0:
        client.capture_message("child")
        os._exit(0 if client.flush(10.0) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    client.capture_message("parent again")
    assert client.flush(10.0)
    assert len(server.received) == 3


# --- many beside each other -----------------------------------------------------------------------


def test_claimed_by_one(engine: Server) -> None:
    """What one process has claimed, no other one gets."""
    one, other = (SharedOutbox(engine.url, TARGET) for _ in range(2))
    everything = fill(one, 30)
    first, second = ids(one.next(16)), ids(other.next(16))
    assert sorted(first + second) == everything
    assert other.next(16) == other.next(16)
    for outbox in one, other:
        outbox.release()
        outbox.close()


def test_given_back(engine: Server) -> None:
    """What a process gives back, the others get."""
    one, other = (SharedOutbox(engine.url, TARGET) for _ in range(2))
    everything = fill(one, 5)
    assert ids(one.next(16)) == everything
    assert other.next(16) == []
    one.give_back()
    assert ids(other.next(16)) == everything
    other.remove(everything)
    assert other.waiting() == 0


def test_leases_end(engine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of another host has claimed and does not renew, others adopt."""
    monkeypatch.setattr(shared_outbox, "is_dead", lambda _: False)
    for module in redis_engine, postgres_engine:
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.2)
    one, other = (SharedOutbox(engine.url, TARGET) for _ in range(2))
    everything = fill(one, 3)
    one.next(16)
    end = time.monotonic() + 10
    while not (found := ids(other.next(16))):
        assert time.monotonic() < end
    assert found == everything


def test_leases_are_renewed(engine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process goes on sending stays its own."""
    monkeypatch.setattr(shared_outbox, "is_dead", lambda _: False)
    for module in redis_engine, postgres_engine, shared_outbox:
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    one, other = (SharedOutbox(engine.url, TARGET) for _ in range(2))
    everything = fill(one, 3)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert ids(one.next(16)) == everything
        assert other.next(16) == []


def test_pauses_are_shared(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """One 429 pauses all processes: reports wait, and only the one that was answered is lost."""
    server.answers.append(Answer(429, {"Retry-After": "1000"}))
    one, other = (make_client(server.dsn, outbox=engine.url) for _ in range(2))
    one.capture_message("refused")
    assert one.flush(10.0)
    end = time.monotonic() + 10
    while not any(
        each.paused for each in engine_status(engine.url)
    ):  # Either of them may be sending it.
        assert time.monotonic() < end
    for number in range(5):
        one.capture_message(f"{number}")
        other.capture_message(f"{number}")
    assert one.flush(10.0)
    assert other.flush(10.0)
    assert len(server.received) == 1
    assert {"ratelimit_backoff": 1} in [each.stats()["discarded"] for each in (one, other)]
    (status,) = engine_status(engine.url)
    assert status.held.waiting == 10
    assert 900 < status.paused <= 1000


def test_pauses_end(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """When the pause is over, what has waited is sent."""
    server.answers.append(Answer(429, {"X-Sentry-Rate-Limits": "0.3:error:organization"}))
    client = make_client(server.dsn, outbox=engine.url)
    for number in range(5):
        client.capture_message(f"{number}")
    for _ in range(5):
        assert server.arrived.acquire(timeout=10.0)


def test_longer_pauses_stay(engine: Server) -> None:
    """A shorter pause does not end a longer one."""
    one, other = (SharedOutbox(engine.url, TARGET) for _ in range(2))
    assert one.paused() == 0.0
    one.pause(100.0)
    other.pause(1.0)
    assert 90.0 < one.paused() <= 100.0


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [EngineBounds(max_reports=20), EngineBounds(max_bytes=20 * len(event(0)[1]))],
    ids=["number", "size"],
)
def test_bounded(engine: Server, bounds: EngineBounds) -> None:
    """The oldest reports make room, and are told."""
    outbox = SharedOutbox(engine.url, TARGET, bounds=bounds)
    gone: list[str] = []
    for number in range(100):
        gone += outbox.keep([event(number)])[1]
    assert outbox.waiting() <= 22
    assert gone == [event(number)[0]["event_id"] for number in range(100 - outbox.waiting())]


def test_old_reports_are_deleted(engine: Server) -> None:
    """What is older than it may be is deleted, not sent."""
    outbox = SharedOutbox(engine.url, TARGET, bounds=EngineBounds(max_age=1.0))
    everything = fill(outbox, 3)
    end, gone = time.monotonic() + 10, []
    while len(gone) < 3:
        gone += outbox.renew()
        assert time.monotonic() < end
    assert gone == everything
    assert outbox.next(16) == []


def test_overflow_is_counted(engine: Server, make_client: Callable[..., SentryClient]) -> None:
    """What made room counts as queue_overflow, and what waits as queued."""
    client = make_client(dead_dsn(), outbox=engine.url, max_reports=10, max_queue=1000)
    for number in range(50):
        client.capture_message(f"{number}")
        assert client.flush(10.0)
    stats = client.stats()
    assert stats["queued"] + stats["discarded"]["queue_overflow"] == stats["captured"] == 50
    assert stats["queued"] <= 11


# --- the engine is away ---------------------------------------------------------------------------


def test_sent_without_the_engine(
    engine: Server,
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the engine is away reports are sent without it, which is said once."""
    client = make_client(server.dsn, outbox=engine.url)
    assert client.flush(10.0)
    engine.kill()
    for number in range(5):
        client.capture_message(f"{number}")
        assert client.flush(10.0)
    assert len(server.received) == 5
    assert client.stats()["sent"] == 5
    said = {line for line in told(caplog) if "cannot use the outbox" in line}
    assert 1 <= len(said) <= 2  # the connection was closed; it was refused
    assert len([line for line in told(caplog) if "cannot use the outbox" in line]) == len(said)
    assert all("\n" not in line for line in said)


def test_used_again(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """When the engine is back, it is used."""
    client = make_client(dead_dsn(), outbox=engine.url)
    engine.kill()
    client.capture_message("while it is away")
    engine.start()
    end = time.monotonic() + 20
    while not waiting(engine):
        assert time.monotonic() < end
    assert client.stats()["queued"] == 1


def test_bounded_without_both(engine: Server, make_client: Callable[..., SentryClient]) -> None:
    """While engine and server are away reports wait in memory, within the queue's bounds."""
    client = make_client(dead_dsn(), outbox=engine.url, max_queue=20)
    engine.kill()
    for number in range(200):
        client.capture_message(f"{number}")
    stats = client.stats()
    assert stats["queued"] <= 20 + 64  # what waits, and what the thread has in hand
    assert stats["queued"] + sum(stats["discarded"].values()) == 200
    begin = time.monotonic()
    client.close(0.5)
    assert time.monotonic() < begin + 5
    assert client.stats()["queued"] == 0


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no process")
def test_close_is_in_time(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """close() returns in time also where the engine has stopped answering."""
    client = make_client(server.dsn, outbox=engine.url)
    client.capture_message("x")
    assert client.flush(10.0)
    os.killpg(engine.pid, signal.SIGSTOP)
    try:
        client.capture_message("y")
        begin = time.monotonic()
        client.close(0.3)
        assert time.monotonic() < begin + 2.0
    finally:
        os.killpg(engine.pid, signal.SIGCONT)


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["mysql://host/db", "redis://host:port", "redis://host:0", "redis://ho st", "sqlite:///o.db"],
)
def test_wrong_urls(url: str) -> None:
    """A URL that names no engine is refused where it is given, and is not shown."""
    with pytest.raises(ConfigurationError, match=r"outbox .*write outbox=") as caught:
        SentryClient(TARGET, outbox=url)
    assert "ho st" not in str(caught.value)


def test_wrong_options_of_urls() -> None:
    """Options that an engine's package does not know are refused, without what they say."""
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigurationError, match="libpq cannot read") as caught:
        SentryClient(TARGET, outbox="postgresql://ada:hunter2@host/db?hunter3=1")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [("redis", "valkey://host", "redis"), ("psycopg", "postgres://host/db", "postgresql")],
)
def test_missing_package(
    package: str, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose package is missing is refused where it is given, with what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=package) as caught:
        SentryClient(TARGET, outbox=url)
    assert caught.value.extra == extra


def test_passwords_are_not_shown() -> None:
    """Where an engine is, is told without user and password."""
    address = engine_address("rediss://ada:hunter2@cache.example:6380/3?ssl_cert_reqs=none")
    assert str(address) == "rediss://cache.example:6380/3"
    assert "hunter2" not in repr(address)


def reason(outbox: SharedOutbox) -> str:
    """Return why an outbox cannot be used."""
    with pytest.raises(EngineError) as caught:
        outbox.keep([event(1)])
    return caught.value.reason


def test_nobody_there() -> None:
    """Where nobody listens, the reason is that."""
    pytest.importorskip("redis")
    pytest.importorskip("psycopg")
    for url in "redis://127.0.0.1:9/0", "postgresql://127.0.0.1:9/db":
        assert reason(SharedOutbox(url, TARGET)) == "the connection was refused"


def test_old_version(engine: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is too old is not used, and the reason names both versions."""
    monkeypatch.setattr(redis_engine, "_OLDEST_VERSION", (99, 0))
    monkeypatch.setattr(postgres_engine, "_OLDEST_VERSION", 990_000)
    assert "or a newer one is needed" in reason(SharedOutbox(engine.url, TARGET))


def test_no_rights_in_redis(redis: RedisServer) -> None:
    """A user of Redis without rights is told as that; a wrong password, too."""
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "ada", "on", ">hunter2", "~*", "+get", "+info")
    url = redis.url.replace("://", "://ada:hunter2@")
    assert "may not do what is needed" in reason(SharedOutbox(url, TARGET))
    wrong = url.replace("hunter2", "hunter3")
    assert reason(SharedOutbox(wrong, TARGET)) == "the password is missing or wrong"


def test_rights_that_are_enough_in_redis(redis: RedisServer) -> None:
    """The rights that the message names are enough."""
    rights = "~usercontext:outbox:* +@stream +@string +@set +@scripting +info +time +pttl"
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "bob", "on", ">hunter2", *rights.split())
    outbox = SharedOutbox(redis.url.replace("://", "://bob:hunter2@"), TARGET)
    everything = fill(outbox, 3)
    assert ids(outbox.next(16)) == everything
    outbox.pause(1.0)
    outbox.remove(everything)
    outbox.release()


def test_no_rights_in_postgresql(servers: dict[str, Server]) -> None:
    """A role of PostgreSQL without rights is told as that, and an unknown database, too."""
    psycopg: Any = pytest.importorskip("psycopg")
    if "postgresql" not in servers:
        servers["postgresql"] = PostgresServer()
    server = servers["postgresql"]
    server.ensure()
    server.empty()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS ada")
        connection.execute("CREATE ROLE ada LOGIN")
    url = server.url.replace("postgres@", "ada@")
    assert "may not do what is needed" in reason(SharedOutbox(url, TARGET))
    nowhere = server.url.replace("/postgres", "/nowhere")
    assert "no role or database of that name" in reason(SharedOutbox(nowhere, TARGET))


def test_no_persistence(
    redis: RedisServer,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That Redis keeps nothing on a disk is said once."""
    with redis.client() as client:
        client.config_set("appendonly", "no")
        for _ in range(2):
            fill(SharedOutbox(redis.url, TARGET), 1)
        client.config_set("appendonly", "yes")
    (said,) = [line for line in told(caplog) if "appendonly" in line]
    assert "keeps nothing on a disk" in said


def test_full_memory(redis: RedisServer) -> None:
    """A Redis whose memory is full takes nothing, and the reason is that."""
    with redis.client() as client:
        outbox = SharedOutbox(redis.url, TARGET)
        fill(outbox, 1)
        client.config_set("maxmemory", "1")
        try:
            assert reason(outbox) == "its memory is full"
        finally:
            client.config_set("maxmemory", "0")


def test_emptied(engine: Server, server: SentryServer) -> None:
    """An engine that was emptied, or came back without what it held, goes on."""
    outbox = SharedOutbox(engine.url, TARGET)
    fill(outbox, 3)
    if isinstance(engine, RedisServer):
        engine.empty()
    everything = fill(outbox, 3, first=10)
    assert ids(outbox.next(16))[-3:] == everything


# --- on the command line --------------------------------------------------------------------------


def forwarder(url: str, *options: str) -> subprocess.Popen[str]:
    """Run `usercontext outbox forward`, up to the line that it forwards."""
    command = [sys.executable, "-m", "usercontext", "outbox", "forward", url, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "forwarding" in process.stdout.readline()
    return process


def test_forward(engine: Server, server: SentryServer) -> None:
    """A forwarder sends what comes, until SIGTERM, and says how many it has sent."""
    outbox = SharedOutbox(engine.url, TARGET)
    process = forwarder(engine.url, "--dsn", server.dsn)
    everything = fill(outbox, 5)
    for _ in range(5):
        assert server.arrived.acquire(timeout=10.0)
    process.terminate()
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "127.0.0.1:9/1: 5 sent" in said
    assert received(server) == set(everything)
    assert outbox.waiting() == 0


def test_forward_once(
    engine: Server, server: SentryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--once` sends what waits, to the server that each was kept for, and ends."""
    target = server.dsn.replace(":hunter2", "")
    fill(SharedOutbox(engine.url, target), 40)
    assert cli.main(["outbox", "forward", engine.url, "--once"]) == 0
    assert "40 sent" in capsys.readouterr().out
    assert len(server.received) == 40


def test_forward_once_to_nobody(engine: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be sent is left, which the exit status tells."""
    fill(SharedOutbox(engine.url, TARGET), 4)
    assert cli.main(["outbox", "forward", engine.url, "--once"]) == 1
    assert "4 left" in capsys.readouterr().err


def test_status_and_clear(engine: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` tells what waits, for which server, and `clear` deletes it."""
    fill(SharedOutbox(engine.url, TARGET), 7)
    assert cli.main(["outbox", "status", engine.url]) == 0
    said = capsys.readouterr().out
    assert "waiting  7 (0 of them being sent)" in said
    assert "server   127.0.0.1:9/1  7" in said
    assert cli.main(["outbox", "clear", engine.url]) == 0
    assert capsys.readouterr().out == "7 deleted\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["forward", "outbox.db"], "outbox flush"),
        (["flush", "redis://127.0.0.1:9/0"], "forward --once"),
        (["status", "redis://127.0.0.1:9/0"], "the connection was refused"),
        (["forward", "mysql://host"], "write outbox="),
    ],
)
def test_wrong_commands(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is told in one line, with what to write instead."""
    pytest.importorskip("redis")
    assert cli.main(["outbox", *arguments]) == 2
    assert said in capsys.readouterr().err


# --- killed ---------------------------------------------------------------------------------------

# One process that forks the others, which tell what is acknowledged until they are killed.
PRODUCERS = """
import logging, os, random, signal, sys, time
logging.disable()
from usercontext.sentry import SentryClient

def capture_for_ever(pipe):
    client = SentryClient(sys.argv[1], outbox=sys.argv[2])
    while True:
        ids = [client.capture_message("x" * random.choice((10, 5000))) for _ in range(5)]
        if client.flush(5.0):
            os.write(pipe, "".join(f"{event_id}\\n" for event_id in ids if event_id).encode())

SentryClient(sys.argv[1], outbox="redis://127.0.0.1:9" if "redis" in sys.argv[2] else None)
for number in range(int(sys.argv[3])):
    dice = random.Random(number)
    mine, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(mine)
        capture_for_ever(its)
    os.close(its)
    with os.fdopen(mine) as told:
        acknowledged = [told.readline() for _ in range(dice.randrange(20))]
        time.sleep(dice.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
        acknowledged += told.readlines()
    os.waitpid(pid, 0)
    sys.stdout.write("".join(acknowledged))
"""


@forks
@pytest.mark.timeout(120 + 5 * KILLS)
def test_killed_producers(engine: Server, server: SentryServer) -> None:
    """What was acknowledged before a producer was killed arrives."""
    command = [sys.executable, "-c", PRODUCERS, server.dsn, engine.url, str(KILLS)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    acknowledged = set(ended.stdout.split())
    end = time.monotonic() + 90
    while waiting(engine) and time.monotonic() < end:
        assert cli.main(["outbox", "forward", engine.url, "--once"]) in (0, 1)
    assert len(acknowledged) > KILLS
    assert acknowledged <= received(server)


@pytest.mark.timeout(120 + 10 * KILLS)
def test_killed_forwarders(engine: Server, server: SentryServer) -> None:
    """What a forwarder was sending when it was killed, the next one sends."""
    outbox = SharedOutbox(engine.url, server.dsn.replace(":hunter2", ""))
    everything: set[str] = set()
    dice = random.Random(1)
    for number in range(KILLS):
        everything |= set(fill(outbox, 40, first=number * 40))
        process = forwarder(engine.url)
        for _ in range(dice.randrange(30)):
            assert server.arrived.acquire(timeout=10.0)
        time.sleep(dice.random() * 0.01)
        process.kill()
        process.communicate()
    end = time.monotonic() + 90
    while outbox.waiting() and time.monotonic() < end:
        assert cli.main(["outbox", "forward", engine.url, "--once"]) in (0, 1)
    assert everything <= received(server)


@pytest.mark.timeout(120 + 10 * KILLS)
def test_killed_engine(
    engine: Server, server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What was acknowledged while the engine was killed and came back, again and again, arrives."""
    client = make_client(server.dsn, outbox=engine.url, max_queue=1000)
    over = threading.Event()
    acknowledged: set[str] = set()

    def capture() -> None:
        while not over.is_set():
            batch = {client.capture_message(f"{number}") for number in range(5)} - {None}
            if client.flush(5.0):
                acknowledged.update(filter(None, batch))

    thread = threading.Thread(target=capture)
    thread.start()
    dice = random.Random(2)
    try:
        for _ in range(KILLS):
            time.sleep(dice.random() * 0.2)
            engine.kill()
            time.sleep(dice.random() * 0.1)
            engine.start()
    finally:
        over.set()
        thread.join()
    end = time.monotonic() + 90
    while waiting(engine) and time.monotonic() < end:
        client.flush(1.0)
    assert len(acknowledged) > KILLS
    assert acknowledged <= received(server)
    stats = client.stats()
    assert stats["captured"] == stats["sent"] + stats["queued"] + sum(stats["discarded"].values())
