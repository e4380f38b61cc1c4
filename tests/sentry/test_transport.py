"""Events over HTTP, to a real server."""

from __future__ import annotations

import contextvars
import gc
import logging
import socket
import sys
import threading
import time
import weakref
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import Answer, SentryServer
from usercontext import __version__
from usercontext.sentry.delivery import http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usercontext.sentry import SentryClient


@pytest.fixture
def client(server: SentryServer, make_client: Callable[..., SentryClient]) -> SentryClient:
    """A client of that server."""
    return make_client(server.dsn)


@pytest.fixture
def dead(make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch) -> SentryClient:
    """A client of a server that is not there."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", (0.01, 0.01))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return make_client(f"http://key@127.0.0.1:{unused.getsockname()[1]}/1")


def capture(client: SentryClient, number: int = 1) -> None:
    """Capture messages and wait until they are dealt with."""
    for _ in range(number):
        client.capture_message("x")
    assert client.flush(10.0)


def is_balanced(stats: dict[str, Any]) -> bool:
    """Return whether every event captured is accounted for."""
    known = stats["sent"] + stats["queued"] + sum(stats["discarded"].values())
    return bool(stats["captured"] == known)


def test_request(server: SentryServer, client: SentryClient) -> None:
    """An event is posted to the project's envelope endpoint, with the public key alone."""
    event_id = client.capture_message("hello")
    client.flush(10.0)
    received = server.received[0]

    assert received.path == "/api/1/envelope/"
    assert received.headers["content-type"] == "application/x-sentry-envelope"
    assert received.headers["x-sentry-auth"] == (
        f"Sentry sentry_version=7, sentry_client=usercontext/{__version__}, sentry_key=key"
    )
    assert received.headers["user-agent"] == f"usercontext/{__version__}"
    assert received.header["event_id"] == received.event["event_id"] == event_id
    assert "hunter2" not in str(vars(received))


def test_small_bodies_are_not_compressed(server: SentryServer, client: SentryClient) -> None:
    """A small envelope is sent as it is, a larger one with gzip."""
    client.capture_message("x")
    client.capture_message("x" * 5000)
    client.flush(10.0)

    assert "content-encoding" not in server.received[0].headers
    assert server.received[1].headers["content-encoding"] == "gzip"
    assert server.received[1].size < 2000


def test_keep_alive(server: SentryServer, client: SentryClient) -> None:
    """Reports share a connection."""
    capture(client, 20)

    assert len(server.received) == 20
    assert server.connections == 1


def test_stats(server: SentryServer, client: SentryClient) -> None:
    """What was sent is counted, and what waits as well."""
    server.answering.clear()
    client.capture_message("x")
    server.arrived.acquire(timeout=10)
    client.capture_message("y")

    assert client.stats() == {"captured": 2, "sent": 0, "queued": 2, "discarded": {}}
    server.answering.set()
    assert client.flush(10.0)
    assert client.stats() == {"captured": 2, "sent": 2, "queued": 0, "discarded": {}}


@pytest.mark.parametrize("status", [302, 400, 401, 403, 413, 500, 502, 503])
def test_refused(
    server: SentryServer,
    client: SentryClient,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the server refuses is not sent again, is counted, and is logged once."""
    server.answers += [Answer(status), Answer(status)]
    capture(client, 2)
    capture(client)

    assert len(server.received) == 3
    assert client.stats()["discarded"] == {"send_error": 2}
    assert is_balanced(client.stats())
    assert caplog.text.count(f"answered {status}") == 1
    assert "key" not in caplog.text.replace("check the DSN", "")


def test_client_report(server: SentryServer, client: SentryClient) -> None:
    """What was discarded is told with the next envelope, once."""
    server.answers += [Answer(400)]
    capture(client)
    capture(client)
    capture(client)
    reports = [received.item("client_report") for received in server.received]

    assert reports[1]["discarded_events"] == [
        {"reason": "send_error", "category": "error", "quantity": 1}
    ]
    assert reports[0] is reports[2] is None


def told(server: SentryServer) -> Counter[str]:
    """Return what all client reports say was discarded, by reason."""
    total: Counter[str] = Counter()
    for received in server.received:
        for header, item in received.items:
            if header["type"] == "client_report":
                assert header["length"] <= 4096
                for event in item["discarded_events"]:
                    total[event["reason"]] += event["quantity"]
    return total


def test_large_client_report(server: SentryServer, client: SentryClient) -> None:
    """What no client report of 4 KiB holds is told by several, once."""
    discarded = {f"{number:03}" + "x" * 97: 2 for number in range(100)}
    for reason in [*discarded, *discarded]:
        client._outgoing.transport.discard(reason + "and more")  # type: ignore[union-attr]
    capture(client, 5)

    assert sum("client_report" in str(received.items) for received in server.received) == 4
    assert told(server) == client.stats()["discarded"] == discarded


def test_client_reports_of_many_threads(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """While threads capture and discard, each discarded event is told once, and none is missed."""
    client = make_client(
        server.dsn, max_queue=5, sample_rate=0.7,
        before_send=lambda event: None if event["level"] == "debug" else event,
    )  # fmt: skip
    server.answers += [Answer(413 if number % 7 == 0 else 200) for number in range(200)]
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        for number in range(300):
            client.capture_message("x", level=("debug", "info", "error")[number % 3])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.flush(20.0)
    server.answers.clear()
    while client._outgoing.transport.ledger.unreported:  # type: ignore[union-attr]
        capture(client)
    stats = client.stats()

    assert told(server) == stats["discarded"]
    assert set(stats["discarded"]) == {"queue_overflow", "sample_rate", "before_send", "send_error"}
    assert stats["captured"] >= 1200
    assert is_balanced(stats)


def test_client_reports_of_an_unsteady_network(
    server: SentryServer, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where requests fail, with which a report may go and is given back."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", (0.001,))
    client = make_client(server.dsn, sample_rate=0.5, max_queue=20)
    faults = [None, "reset", "garbage", "reset", "reset", "garbage", "garbage"]
    server.answers += [Answer(fault=fault) for fault in faults * 20]
    threads = [
        threading.Thread(target=lambda: [client.capture_message("x") for _ in range(100)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.flush(20.0)
    server.answers.clear()
    while client._outgoing.transport.ledger.unreported:  # type: ignore[union-attr]
        capture(client)
    stats = client.stats()

    assert told(server) == stats["discarded"]
    assert "network_error" in stats["discarded"]
    assert is_balanced(stats)


ASKED = {
    "200 with a limit": (200, {"X-Sentry-Rate-Limits": "60:error:key"}, True),
    "200 with two limits": (200, {"X-Sentry-Rate-Limits": "60:replay:key, 2.5::key"}, True),
    "200 with another's": (200, {"X-Sentry-Rate-Limits": "60:transaction:key"}, False),
    "200 with Retry-After": (200, {"Retry-After": "60"}, False),
    "400 with a limit": (400, {"X-Sentry-Rate-Limits": "60::organization"}, True),
    "413 with a limit": (413, {"X-Sentry-Rate-Limits": "60:default;error:organization"}, True),
    "500 with a limit": (500, {"X-Sentry-Rate-Limits": "60:error"}, True),
    "503 with a limit": (503, {"X-Sentry-Rate-Limits": "60:error:key:quota_exceeded"}, True),
    "503 with Retry-After": (503, {"Retry-After": "60"}, False),
    "503 with both": (503, {"Retry-After": "1", "X-Sentry-Rate-Limits": "60:error:key"}, True),
    "503 with another's": (503, {"Retry-After": "9", "X-Sentry-Rate-Limits": "60:span:k"}, False),
    "429 alone": (429, {}, True),
    "429 with Retry-After": (429, {"Retry-After": "60"}, True),
    "429 with a date": (429, {"Retry-After": formatdate(time.time() + 3600, usegmt=True)}, True),
    "429 with a date gone by": (429, {"Retry-After": formatdate(0, usegmt=True)}, False),
    "429 with a limit": (429, {"X-Sentry-Rate-Limits": "60:error:key"}, True),
    "429 with another's": (429, {"Retry-After": "9", "X-Sentry-Rate-Limits": "60:span:k"}, False),
    "429 with nonsense": (429, {"X-Sentry-Rate-Limits": "soon"}, True),
}


@pytest.mark.parametrize("kind", ["memory", "outbox"])
@pytest.mark.parametrize("case", ASKED.values(), ids=ASKED)
def test_asked_for_a_pause(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    tmp_path: Path,
    case: tuple[int, dict[str, str], bool],
    kind: str,
) -> None:
    """The limits of any answer count, Retry-After of a 429 without them; never is one retried."""
    status, headers, is_limited = case
    options = {"outbox": tmp_path / "outbox.db"} if kind == "outbox" else {}
    client = make_client(server.dsn, **options)
    server.answers += [Answer(status, headers)]
    capture(client, 3)
    first = {200: "sent", 429: "ratelimit_backoff"}.get(status, "send_error")
    later = "ratelimit_backoff" if is_limited else "sent"
    stats = client.stats()

    assert len(server.received) == (1 if is_limited else 3)
    assert Counter(stats["discarded"], sent=stats["sent"]) == Counter([first, later, later])
    assert is_balanced(stats)


def test_pause_is_over(server: SentryServer, client: SentryClient) -> None:
    """When the time is over, reports are sent again, and what was held back is told."""
    server.answers += [Answer(503, {"X-Sentry-Rate-Limits": "3600:error:key"})]
    capture(client, 3)
    limits: Any = client._outgoing.transport.destination.sender.limits  # type: ignore[union-attr]
    assert 3595 < limits._until - time.monotonic() <= 3600
    limits._until -= 3600
    capture(client)

    assert told(server) == client.stats()["discarded"] == {"send_error": 1, "ratelimit_backoff": 2}
    assert client.stats()["sent"] == 1


def test_rate_limited(server: SentryServer, client: SentryClient) -> None:
    """After a 429 nothing is sent; only what was held back by us is told to the server."""
    server.answers += [Answer(429, {"X-Sentry-Rate-Limits": "60:error:organization"})]
    capture(client, 3)

    assert len(server.received) == 1
    assert client.stats()["discarded"] == {"ratelimit_backoff": 3}
    assert client._outgoing.transport.ledger.unreported == {"ratelimit_backoff": 2}  # type: ignore[union-attr]
    assert is_balanced(client.stats())


def test_rate_limited_by_a_good_answer(server: SentryServer, client: SentryClient) -> None:
    """A limit may come with a 200."""
    server.answers += [Answer(200, {"x-sentry-rate-limits": "0.5::organization"})]
    capture(client, 2)

    assert client.stats()["sent"] == 1
    assert client.stats()["discarded"] == {"ratelimit_backoff": 1}


def test_odd_answers(server: SentryServer, client: SentryClient) -> None:
    """Whatever the body of an answer, its status counts."""
    server.answers += [Answer(200, body=b"x" * 1_000_000), Answer(200, body=b""), Answer(204)]
    server.answers[2].body = b""
    capture(client, 4)

    assert client.stats()["sent"] == 4


# The network fails


def test_server_is_down(dead: SentryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Without a server, events are dropped after a few tries, counted, and logged once."""
    capture(dead, 3)

    assert dead.stats()["discarded"] == {"network_error": 3}
    assert is_balanced(dead.stats())
    assert caplog.text.count("cannot reach 127.0.0.1") == 1


class Fragile(threading.Thread):
    """A server that hangs up on the first connections, then answers."""

    def __init__(self, hang_ups: int, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(20)
        self.hang_ups = hang_ups
        self.answer = answer
        self.connections = 0

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.socket.getsockname()[1]}/1"

    def run(self) -> None:
        for number in range(self.hang_ups + 1):
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return  # closed: the test has ended, or was skipped, before it connected
            self.connections += 1
            with connection:
                connection.recv(65_536)
                if number == self.hang_ups:
                    connection.sendall(self.answer)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bytes], Fragile]]:
    """Start servers that hang up."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", (0.01, 0.01))
    started: list[Fragile] = []

    def start(hang_ups: int, answer: bytes) -> Fragile:
        started.append(Fragile(hang_ups, answer))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.socket.close()
        server.join(10)


def test_tried_again(
    fragile: Callable[[int, bytes], Fragile], make_client: Callable[..., SentryClient]
) -> None:
    """An event that the network lost is tried again."""
    server = fragile(2, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client = make_client(server.dsn)
    capture(client)

    assert server.connections == 3
    assert client.stats()["sent"] == 1


ANSWERS = {
    "cut off in the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx", "sent"),
    "garbage": (b"\x00\x01\x02 garbage\r\n\r\n", "network_error"),
    "cut off in the header": (b"HTTP/1.1 200", "network_error"),
}


@pytest.mark.parametrize(("answer", "outcome"), ANSWERS.values(), ids=ANSWERS)
def test_bad_answers(
    answer: bytes,
    outcome: str,
    fragile: Callable[[int, bytes], Fragile],
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A status that arrived counts; what is not an answer is the network's fault."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", ())
    client = make_client(fragile(0, answer).dsn)
    capture(client)
    stats = client.stats()

    assert {"sent": stats["sent"], **stats["discarded"]}.get(outcome) == 1


def test_client_report_is_given_back(dead: SentryClient) -> None:
    """A report of discarded events that did not arrive is told again."""
    dead._outgoing.transport.discard("sample_rate")  # type: ignore[union-attr]
    capture(dead)

    assert dead._outgoing.transport.ledger.unreported == {"sample_rate": 1, "network_error": 1}  # type: ignore[union-attr]


def test_slow_server(server: SentryServer, make_client: Callable[..., SentryClient]) -> None:
    """A server that does not answer delays the background thread, for the timeout alone."""
    client = make_client(server.dsn, timeout=0.05)
    server.answering.clear()
    capture(client)

    assert client.stats()["discarded"] == {"network_error": 1}


def test_flush_keeps_to_its_timeout(server: SentryServer, client: SentryClient) -> None:
    """`flush()` gives up in time, and says so."""
    server.answering.clear()
    client.capture_message("x")
    started = time.monotonic()

    assert not client.flush(0.05)
    assert time.monotonic() - started < 5


def test_close_keeps_to_its_timeout(server: SentryServer, client: SentryClient) -> None:
    """So does `close()`; what had to be left is counted."""
    server.answering.clear()
    for _ in range(3):
        client.capture_message("x")
    server.arrived.acquire(timeout=10)

    assert not client.close(0.05)
    assert client.stats()["discarded"] == {"network_error": 2}
    assert client.capture_message("x") is None
    assert is_balanced(client.stats())


# The queue


def test_queue_is_bounded(server: SentryServer, make_client: Callable[..., SentryClient]) -> None:
    """A full queue drops what comes next, without waiting."""
    client = make_client(server.dsn, max_queue=5)
    server.answering.clear()
    client.capture_message("x")
    server.arrived.acquire(timeout=10)
    for _ in range(10):
        client.capture_message("x")

    assert client.stats()["discarded"] == {"queue_overflow": 5}
    assert is_balanced(client.stats())


def test_oldest_is_dropped(server: SentryServer, make_client: Callable[..., SentryClient]) -> None:
    """Told so, a full queue drops what has waited longest instead."""
    client = make_client(server.dsn, max_queue=5, overflow="drop_oldest")
    server.answering.clear()
    client.capture_message("first")
    server.arrived.acquire(timeout=10)
    for number in range(10):
        assert client.capture_message(str(number))
    assert not client.flush(0)
    assert client.stats()["discarded"] == {"queue_overflow": 5}
    assert is_balanced(client.stats())
    server.answering.set()

    assert client.flush(10.0)
    sent = [event["logentry"]["formatted"] for event in server.events]
    assert sent == ["first", "5", "6", "7", "8", "9"]
    assert client.close(10.0)
    assert client.capture_message("x") is None


def test_queue_is_bounded_by_bytes(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """So does a queue of few but large events."""
    client = make_client(server.dsn, max_queue_bytes=30_000)
    server.answering.clear()
    client.capture_message("x")
    server.arrived.acquire(timeout=10)
    for _ in range(10):
        client.capture_message("x" * 8000)

    assert 5 <= client.stats()["discarded"]["queue_overflow"] <= 9


def deep(value: Any) -> Any:
    """Return a value below fifteen lists."""
    for _ in range(15):
        value = [value]
    return value


def holding_itself() -> list[Any]:
    """Return lists that hold each other."""
    lists: list[Any] = [[] for _ in range(10)]
    for one in lists:
        one.extend(lists)
    return lists


HEAVY = {
    "contexts": lambda: {"contexts": {"a": "x" * 20_000}},
    "release": lambda: {"release": "x" * 20_000},
    "keys": lambda: {"extra": {"x" * 20_000: 1}},
    "deep": lambda: {"extra": {"x": deep("x" * 20_000)}},
    "bytes": lambda: {"extra": [b"x" * 20_000]},
    "many": lambda: {"extra": [1] * 2000},
    "itself": lambda: {"extra": holding_itself()},
    "variables": lambda: {
        "exception": {"values": [{"stacktrace": {"frames": [{"vars": {"a": "x" * 20_000}}]}}]}
    },
}


@pytest.mark.parametrize("parts", HEAVY.values(), ids=HEAVY)
def test_weight(dead: SentryClient, parts: Callable[[], Any]) -> None:
    """Wherever in an event much stands, it counts."""
    transport: Any = dead._outgoing.transport  # type: ignore[union-attr]
    transport.queue.max_bytes = 30_000
    transport.worker.start = lambda: False
    for _ in range(5):
        event = dead.build_message("x")
        if event is not None:
            dead.send({**event, **parts()})

    assert 1 <= dead.stats()["queued"] <= 2
    assert is_balanced(dead.stats())


def test_event_larger_than_the_queue(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """One event is always let in."""
    client = make_client(server.dsn, max_queue_bytes=100)
    capture(client)

    assert client.stats()["sent"] == 1


@pytest.mark.parametrize(
    "exception", [7, {"values": 7}, {"values": [7]}, {"values": [{"value": 7}]}]
)
def test_odd_shapes(
    server: SentryServer, make_client: Callable[..., SentryClient], exception: object
) -> None:
    """Whatever `before_send` makes of an event is sent."""
    client = make_client(server.dsn, before_send=lambda event: {**event, "exception": exception})
    capture(client)

    assert server.events[0]["exception"] == exception


def test_too_large_an_event(client: SentryClient, caplog: pytest.LogCaptureFixture) -> None:
    """What is too large even when shrunk is dropped and counted."""
    event = client.build_message("x")
    assert event is not None
    event["tags"] = {"a": "x" * 2_000_000}
    client.send(event)
    client.flush(10.0)

    assert client.stats()["discarded"] == {"send_error": 1}
    assert "more than 1 MiB" in caplog.text


def test_dead_server_costs_bounded_memory(dead: SentryClient) -> None:
    """Any number of captures at a dead server leaves every event counted, and few in memory."""
    for _ in range(2000):
        dead.capture_message("x")

    stats = dead.stats()
    assert stats["captured"] == 2000
    assert stats["queued"] <= 101
    assert is_balanced(stats)


# What the thread may not do


def test_thread_has_an_empty_context(
    server: SentryServer, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background thread never holds the request during which it started."""
    start = threading.Thread.start

    def start_inheriting(thread: threading.Thread) -> None:
        """Start as Python 3.14 does with `thread_inherit_context`."""
        context, run = contextvars.copy_context(), thread.run
        monkeypatch.setattr(thread, "run", lambda: context.run(run))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_inheriting)

    class Request:
        pass

    variable: contextvars.ContextVar[Request] = contextvars.ContextVar("variable")
    client = make_client(server.dsn)

    def handle() -> weakref.ref[Request]:
        request = Request()
        variable.set(request)
        capture(client)
        return weakref.ref(request)

    request = contextvars.Context().run(handle)
    gc.collect()

    assert request() is None
    assert server.events


def test_own_logs_are_not_reported(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What the HTTP library logs while sending is not reported."""
    client = make_client(server.dsn, transport="httpx")

    class Handler(logging.Handler):
        seen = 0

        def emit(self, record: logging.LogRecord) -> None:
            Handler.seen += 1
            client.capture_message(record.getMessage())

    root, handler = logging.getLogger(), Handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        capture(client)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)

    assert Handler.seen > 0
    assert len(server.received) == 1


def test_deliver_fails(
    client: SentryClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours costs that report alone."""

    def fail(*args: object) -> None:
        raise RuntimeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(http.Sender, "post", fail)
        capture(client)
    capture(client)

    assert client.stats()["discarded"] == {"internal_sdk_error": 1}
    assert client.stats()["sent"] == 1
    assert caplog.text.count("could not deliver") == 1


# Proxies


def test_proxy_of_the_environment(
    server: SentryServer, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HTTP_PROXY` is honoured."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    capture(make_client("http://key@sentry.invalid/1"))

    assert server.received[0].path == "http://sentry.invalid/api/1/envelope/"


def test_proxy_of_the_options(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """The option beats the environment."""
    proxy = f"http://127.0.0.1:{server.server_port}"
    capture(make_client("http://key@sentry.invalid/1", proxy=proxy))

    assert server.received[0].headers["host"] == "sentry.invalid"


@pytest.mark.parametrize("hosts", ["127.0.0.1", "*", "example.com,127.0.0.1"])
def test_no_proxy(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
    hosts: str,
) -> None:
    """`NO_PROXY` is honoured."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", hosts)
    capture(make_client(server.dsn))

    assert server.received[0].path == "/api/1/envelope/"


def test_httpx_where_httpx2_is_missing(
    server: SentryServer, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Httpx does as well as httpx2."""
    monkeypatch.setitem(sys.modules, "httpx2", None)
    client = make_client(server.dsn)
    capture(client)

    assert client._outgoing.transport.destination.sender.connection.library.name == "httpx"  # type: ignore[union-attr]
    assert len(server.received) == 1
