"""A server and a network with every fault: nothing blocks, nothing grows, all is counted."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import Answer, SentryServer
from usercontext.sentry import SentryClient, read_reports
from usercontext.sentry.delivery import http, pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(pace, "_FIRST_PAUSE", 0.01)


def is_balanced(stats: dict[str, Any]) -> bool:
    """Return whether every event captured is accounted for."""
    known = stats["sent"] + stats["queued"] + sum(stats["discarded"].values())
    return bool(stats["captured"] == known)


FAULTS = ["reset", "hang_up", "garbage", "half_open", "half_an_answer"]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    """Whatever the server does to it, an event is tried thrice, counted, and logged once."""
    client = make_client(server.dsn, timeout=0.1)
    server.answers += [Answer(fault=fault) for _ in range(4)]
    client.capture_message("x")
    client.capture_message("x")

    assert client.flush(10.0)
    assert server.faults == 4
    assert client.stats()["discarded"] == {"network_error": 2}
    assert caplog.text.count("cannot reach") == 1


def test_answer_that_trickles(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """An answer that comes byte by byte delays the next event by the timeout, not for ever."""
    client = make_client(server.dsn, timeout=0.1)
    server.answers.append(Answer(fault="trickle"))
    client.capture_message("x")
    client.capture_message("y")

    assert client.flush(10.0)
    assert [event["logentry"]["message"] for event in server.events] == ["y"]
    assert client.stats()["sent"] == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_passes(
    server: SentryServer, make_client: Callable[..., SentryClient], fault: str
) -> None:
    """An event gets through when the fault has passed."""
    client = make_client(server.dsn, timeout=0.1)
    server.answers += [Answer(fault=fault)]
    client.capture_message("x")
    # Not flush(), which waits no more between tries; the events of a fault come once at most.
    assert server.arrived.acquire(timeout=10)

    assert client.flush(10.0)
    assert client.stats()["sent"] == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_with_an_outbox(
    server: SentryServer, make_client: Callable[..., SentryClient], tmp_path: Path, fault: str
) -> None:
    """With an outbox nothing is lost by it."""
    client = make_client(server.dsn, timeout=0.1, outbox=tmp_path / "outbox.db")
    server.answers += [Answer(fault=fault) for _ in range(3)]
    ids = [client.capture_message("x") for _ in range(3)]
    for _ in ids:
        assert server.arrived.acquire(timeout=20)

    assert client.flush(10.0)
    assert [event["event_id"] for event in server.events] == ids
    assert client.stats() == {"captured": 3, "sent": 3, "queued": 0, "discarded": {}}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that takes connections and never a byte: what a half-open connection looks like."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


UNREACHABLE = {
    "DNS fails": "http://key@no-such-host.invalid/1",
    "no TLS": "https://key@127.0.0.1:{port}/1",
    "no answer": "http://key@127.0.0.1:{port}/1",
}


@pytest.mark.parametrize("dsn", UNREACHABLE.values(), ids=UNREACHABLE)
def test_unreachable(
    listener: socket.socket,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    dsn: str,
) -> None:
    """A server that cannot be reached costs the reports alone, and is logged once."""
    client = make_client(dsn.format(port=listener.getsockname()[1]), timeout=0.1)
    client.capture_message("x")
    client.capture_message("x")

    assert client.flush(30.0)
    assert client.stats()["discarded"] == {"network_error": 2}
    assert caplog.text.count("cannot reach") == 1


# A process of which no name is ever resolved. Where the system lets us, its resolver is a socket
# that never answers; elsewhere a `getaddrinfo` that never returns stands for it.
NO_NAMES = """
import json, socket, sys, threading, time
asked = threading.Event()
if sys.argv[1] == "socket":
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.1", 53))
    threading.Thread(target=lambda: resolver.recv(512) and asked.set(), daemon=True).start()
else:
    socket.getaddrinfo = lambda *args, **kwargs: asked.set() or threading.Event().wait()
from usercontext.sentry import SentryClient
options = {"outbox": sys.argv[2]} if sys.argv[2:] else {}
client = SentryClient("https://key@sentry.example/1", shutdown_timeout=0.2, max_queue=10, **options)
client.capture_message("x")
assert asked.wait(20)
started = time.monotonic()
for _ in range(100):
    client.capture_message("x")
captured = time.monotonic()
through = client.flush(0.2)
flushed = time.monotonic()
print(json.dumps([captured - started, flushed - captured, through, client.stats(), time.time()]))
"""
NAMESPACE = """
ip link set lo up && printf 'nameserver 127.0.0.1\noptions timeout:30 attempts:5\n' > "$0" &&
mount --bind "$0" /etc/resolv.conf && exec "$@"
"""


def without_names(directory: Path, *arguments: object) -> tuple[list[Any], float]:
    """Run that process; return what it prints, and how long it took to exit after that."""
    pytest.importorskip("httpx")
    command = ["unshare", "-m", "-n", "sh", "-c", NAMESPACE, str(directory / "resolv.conf")]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
        resolver = "socket"
    except (OSError, subprocess.CalledProcessError):
        command, resolver = [], "function"
    command += [sys.executable, "-c", NO_NAMES, resolver, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    *numbers, ended = json.loads(done.stdout)
    return numbers, time.time() - ended


def test_dns_hangs(tmp_path: Path) -> None:
    """A resolver that never answers holds up no capture, flush or exit; the queue fills."""
    (capturing, flushing, is_through, stats), exiting = without_names(tmp_path)

    assert max(capturing, flushing, exiting) < 10  # the resolver's timeout is 150 s
    assert not is_through
    assert stats == {
        "captured": 101, "sent": 0, "queued": 11, "discarded": {"queue_overflow": 90}
    }  # fmt: skip


def test_dns_hangs_with_an_outbox(tmp_path: Path) -> None:
    """With an outbox all is in the file by then."""
    path = tmp_path / "outbox.db"
    (capturing, flushing, is_through, stats), exiting = without_names(tmp_path, path)

    assert max(capturing, flushing, exiting) < 10
    assert is_through
    assert is_balanced(stats)
    assert stats["queued"] == len(list(read_reports(path)))


def test_tls_on_a_plain_port(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """So does one that speaks no TLS where it should."""
    client = make_client(f"https://key@127.0.0.1:{server.server_port}/1", timeout=2.0)
    client.capture_message("x")

    assert client.flush(10.0)
    assert client.stats()["discarded"] == {"network_error": 1}


def test_certificate_that_nobody_signed(
    listener: socket.socket, make_client: Callable[..., SentryClient], tmp_path: Path
) -> None:
    """So does one whose certificate is not to be trusted: nothing is sent to it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True,
                       capture_output=True)  # fmt: skip
    except OSError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    got: list[bytes] = []

    def serve() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    got.append(secure.recv(1))
            except OSError:
                connection.close()

    client = make_client(f"https://key@127.0.0.1:{listener.getsockname()[1]}/1", timeout=2.0)
    thread = threading.Thread(target=serve)
    thread.start()
    client.capture_message("x")
    assert client.flush(10.0)
    thread.join(10)

    assert client.stats()["discarded"] == {"network_error": 1}
    assert got == []


@pytest.mark.parametrize("kind", ["http", "outbox"])
def test_capturing_never_waits(
    server: SentryServer, make_client: Callable[..., SentryClient], tmp_path: Path, kind: str
) -> None:
    """A server that does not answer costs a thousand captures no second."""
    options = {"outbox": tmp_path / "outbox.db"} if kind == "outbox" else {}
    client = make_client(server.dsn, **options)
    server.answering.clear()
    client.capture_message("x")
    assert server.arrived.acquire(timeout=10)
    started = time.monotonic()
    for _ in range(1000):
        client.capture_message("x")

    assert time.monotonic() - started < 5  # its own timeout is 10 s
    assert is_balanced(client.stats())


def test_balanced_at_any_time(
    server: SentryServer, make_client: Callable[..., SentryClient], tmp_path: Path
) -> None:
    """Captured = sent + queued + discarded holds while all goes on at once."""
    client = make_client(
        server.dsn, outbox=tmp_path / "outbox.db", max_reports=20, overflow="drop_oldest",
        max_queue=3, sample_rate=0.9, before_send=lambda event: event if len(wrong) < 9 else None,
    )  # fmt: skip
    wrong: list[dict[str, Any]] = []
    for fault in ("hang_up", None, "garbage", None, None, "reset") * 10:
        server.answers.append(Answer(fault=fault))
    server.answers[5:5] = [Answer(500), Answer(413)]
    threads = [
        threading.Thread(target=lambda: [client.capture_message("x") for _ in range(60)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stats = client.stats()
        wrong += [] if is_balanced(stats) else [stats]
    client.flush(10.0)

    assert wrong == []
    assert is_balanced(client.stats())
    assert client.stats()["captured"] == 180


# Our own sending is not the app's


def test_no_spans_of_our_own(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """OpenTelemetry's instrumentation of httpx makes no spans of our requests, and no headers."""
    script = """
import sys
try:
    import httpx
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError as error:
    sys.exit(f"{error.name} is not installed")
sys.modules["httpx2"] = None
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
HTTPXClientInstrumentor().instrument(tracer_provider=provider)
from usercontext.sentry import SentryClient
client = SentryClient(sys.argv[1], transport="httpx")
with provider.get_tracer("x").start_as_current_span("request"):
    client.capture_message("x")
    assert client.flush(10)
httpx.post(sys.argv[1].replace("key:hunter2@", ""), content=b"{}")
print([span.name for span in spans.get_finished_spans()])
"""
    command = [sys.executable, "-c", script, server.dsn]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "is not installed" in done.stderr:
        pytest.skip(done.stderr.strip())

    assert done.stdout.strip() == "['request', 'POST']", done.stderr
    assert "traceparent" not in server.received[0].headers


BESIDE_SENTRY_SDK = """
import json, logging, sys, threading
try:
    import httpx, sentry_sdk
except ImportError as error:
    sys.exit(f"{error.name} is not installed")
from sentry_sdk.integrations.httpx import HttpxIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport
from usercontext.sentry import SentryClient

class Kept(Transport):
    def capture_envelope(self, envelope):
        kept.extend(item.payload.json for item in envelope.items)

kept = []
try:
    from sentry_sdk.integrations.httpx2 import Httpx2Integration
    httpx2 = [Httpx2Integration()]
except Exception:  # the SDK is older, or httpx2 not installed
    httpx2 = []
logs = LoggingIntegration(level=logging.DEBUG, event_level=logging.ERROR)
sentry_sdk.init("http://key@sentry.invalid/1", transport=Kept, traces_sample_rate=1.0,
                auto_enabling_integrations=False, integrations=[logs, HttpxIntegration(), *httpx2])
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
options = {"transport": sys.argv[3]} if sys.argv[3:] else {}
clients = [SentryClient(dsn, **options) for dsn in (sys.argv[1], "http://key@127.0.0.1:9/1")]

def refuse(self):
    raise RuntimeError("can't start new thread")

if sys.argv[2] == "False":
    threading.Thread.start = refuse
with sentry_sdk.isolation_scope() as scope, sentry_sdk.start_transaction(name="request"):
    scope.set_user({"id": "7"})
    for client in clients:
        client.capture_message("x")
        assert client.flush(10)
    sentry_sdk.capture_message("before")
    httpx.post(sys.argv[1].replace("key:hunter2@", ""), content=b"{}")
    sentry_sdk.capture_message("after")
print(json.dumps(kept))
"""


@pytest.mark.parametrize("way", [[], ["httpx"]], ids=["socket", "httpx"])
@pytest.mark.parametrize("threads", [True, False], ids=["", "where no thread can be had"])
def test_beside_sentry_sdk(server: SentryServer, threads: bool, way: list[str]) -> None:
    """Sentry's SDK finds no breadcrumbs and spans of ours in a request, and no user in our logs."""
    command = [sys.executable, "-c", BESIDE_SENTRY_SDK, server.dsn, str(threads), *way]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "is not installed" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    log, before, after, transaction = json.loads(done.stdout)

    assert "cannot reach 127.0.0.1" in log["logentry"]["formatted"]
    assert "user" not in log
    assert before["user"] == {"id": "7"}
    assert "breadcrumbs" not in before or before["breadcrumbs"] == {"values": []}
    assert "httplib" in [crumb["category"] for crumb in after["breadcrumbs"]["values"]]
    assert [span["op"] for span in transaction["spans"]] == ["http.client"]
    assert not {"sentry-trace", "baggage"} & set(server.received[0].headers)


def test_no_forwarding_headers(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What delivers an event has none of its request's headers."""
    client = make_client(server.dsn)
    headers = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    client.capture_message("x", request={"headers": headers})
    client.flush(10.0)

    assert not {"x-forwarded-for", "forwarded", "x-real-ip", "baggage", "cookie"} & set(
        server.received[0].headers
    )


def test_logged_at_the_network(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture
) -> None:
    """What the log says of a failing network names no user and no key."""
    client = make_client("http://publickey@127.0.0.1:9/1")
    caplog.set_level(logging.DEBUG)
    client.capture_message("x", user={"id": "7", "email": "ada@shop.example"})

    assert client.flush(10.0)
    assert "ada@" not in caplog.text
    assert "publickey" not in caplog.text
