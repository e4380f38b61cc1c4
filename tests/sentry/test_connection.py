"""The socket of our own: what it says, which answers it understands, and through what it goes."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.sentry.delivery import compression, http, socket_connection
from usercontext.sentry.delivery.answer import read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.sentry.server import SentryServer
    from usercontext.sentry import SentryClient

pytest.importorskip("httpx")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Scripted(threading.Thread):
    """A server that answers with given bytes, one request after the other."""

    def __init__(self, *answers: bytes, closes: bool = False) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.answers = list(answers)
        self.closes = closes
        self.connections = 0
        self.requests: list[bytes] = []
        self.closed = threading.Semaphore(0)

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.listener.getsockname()[1]}/1"

    def run(self) -> None:
        with suppress(OSError):
            while self.answers:
                connection, _ = self.listener.accept()
                self.connections += 1
                with connection:
                    self.serve(connection)
                self.closed.release()

    def serve(self, connection: socket.socket) -> None:
        while self.answers and (request := read_request(connection)):
            self.requests.append(request)
            connection.sendall(self.answers.pop(0))
            if self.closes:
                return


def read_request(connection: socket.socket) -> bytes:
    """Return a request with its body, nothing at the connection's end."""
    request = b""
    while b"\r\n\r\n" not in request:
        received = connection.recv(65_536)
        if not received:
            return b""
        request += received
    head, _, body = request.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scripted]]:
    """Start servers of given answers."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", ())
    started: list[Scripted] = []

    def start(*answers: bytes, **options: bool) -> Scripted:
        started.append(Scripted(*answers, **options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.listener.close()


def capture(client: SentryClient, number: int = 1) -> dict[str, Any]:
    """Capture messages one after the other, each dealt with, and return the client's numbers."""
    for _ in range(number):
        client.capture_message("x")
        assert client.flush(10.0)
    return client.stats()


def test_one_request(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient]
) -> None:
    """A request has the headers that it needs, once each."""
    server = scripted(OK)
    capture(make_client(server.dsn))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)

    assert first == "POST /api/1/envelope/ HTTP/1.1"
    assert headers["Host"] == server.dsn[11:-2]
    assert int(headers["Content-Length"]) == len(body)
    assert len(headers) == len(lines) == 5


REUSABLE = {
    "a length": OK,
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\n{\r\n1;a=b\r\n}\r\n0\r\nX-Checksum: 7\r\n\r\n",
    "another answer before": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
    "HTTP/1.0 that keeps alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", REUSABLE.values(), ids=REUSABLE)
def test_kept_alive(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient], answer: bytes
) -> None:
    """An answer that is read to its end leaves the connection for the next event."""
    server = scripted(answer, answer, answer)

    assert capture(make_client(server.dsn), 3)["sent"] == 3
    assert server.connections == 1


ENDING = {
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "neither length nor chunks": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "a long body": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    "long chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
    "wrong chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n",
    "more than one answer": OK + OK,
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
}


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
def test_closed(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient], answer: bytes
) -> None:
    """After any other one that has a status the event is sent, and the next connects again."""
    server = scripted(answer, answer)

    assert capture(make_client(server.dsn), 2)["sent"] == 2
    assert server.connections == 2


NO_ANSWERS = {
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no end of the head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_no_answer(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient], answer: bytes
) -> None:
    """What is not HTTP is the network's fault."""
    server = scripted(answer)

    assert capture(make_client(server.dsn))["discarded"] == {"network_error": 1}


def test_limits_in_two_lines(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient]
) -> None:
    """A header that stands in several lines is read whole."""
    limits = b"X-Sentry-Rate-Limits: 1:replay\r\nX-Sentry-Rate-Limits: 60:error\r\n"
    server = scripted(b"HTTP/1.1 200 OK\r\n" + limits + b"Content-Length: 0\r\n\r\n", OK)

    assert capture(make_client(server.dsn), 2)["discarded"] == {"ratelimit_backoff": 1}


def test_closed_by_the_server_meanwhile(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient]
) -> None:
    """A connection that the server has closed since the last event is not used again."""
    server = scripted(OK, OK, OK, closes=True)
    client = make_client(server.dsn)
    for number in range(1, 4):
        client.capture_message("x")
        assert client.flush(10.0)
        assert client.stats()["sent"] == number
        assert server.closed.acquire(timeout=10)

    assert server.connections == 3


def test_unused_for_long(
    server: SentryServer, make_client: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that was not used for longer than servers keep it."""
    monkeypatch.setattr(socket_connection, "_KEEPALIVE_SECONDS", -1.0)
    capture(make_client(server.dsn), 3)

    assert server.connections == 3


def test_answered_before_all_is_sent(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient]
) -> None:
    """A server may refuse a large event before it has read it: what it says counts."""
    server = scripted()
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def refuse() -> None:
        connection, _ = server.listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(refusal)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass

    thread = threading.Thread(target=refuse)
    thread.start()
    client = make_client(server.dsn)
    event = client.build_message("x")
    assert event is not None
    client.send({**event, "extra": {"a": [f"{n:x}" for n in range(60_000)]}})

    assert client.flush(10.0)
    thread.join(10)
    assert client.stats()["discarded"] == {"send_error": 1}


@pytest.mark.parametrize("cut", range(len(OK)))
def test_answer_in_two_pieces(cut: int) -> None:
    """Wherever an answer is cut in two by the network, it is the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(OK[:cut])
        threading.Timer(0.01, theirs.sendall, (OK[cut:],)).start()
        answer = read_answer(ours, 10.0)

    assert answer == (200, {"content-length": "2"}, True)


LIBRARIES = {"isal": "isal.isal_zlib", "zlib-ng": "zlib_ng.zlib_ng", "zlib": "zlib"}


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_compressed(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
    library: str,
) -> None:
    """Whatever library compresses, servers read it."""
    module = pytest.importorskip(library)
    monkeypatch.setattr(compression, "_compress", module.compress)
    client = make_client(server.dsn)
    client.capture_message("x" * 5000)

    assert client.flush(10.0)
    assert server.received[0].headers["content-encoding"] == "gzip"
    assert server.events[0]["logentry"]["message"] == "x" * 5000


# TLS


@pytest.fixture(scope="session")
def authority() -> Any:
    """Who signs certificates here."""
    return pytest.importorskip("trustme").CA()


@pytest.fixture
def secure(authority: Any, server: SentryServer) -> SentryServer:
    """The server, over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@pytest.fixture
def trusted(authority: Any, tmp_path: Path) -> str:
    """The file of the certificates to trust."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


WAYS = {"socket": {}, "httpx": {"transport": "httpx"}}


def secure_dsn(server: SentryServer, host: str = "localhost") -> str:
    """Return a DSN of the server over TLS."""
    return f"https://key@{host}:{server.server_port}/1"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_tls(
    secure: SentryServer,
    make_client: Callable[..., SentryClient],
    trusted: str,
    way: dict[str, str],
) -> None:
    """Events go over TLS, on one connection, to a server whose certificate is trusted."""
    client = make_client(secure_dsn(secure), ca_certs=trusted, **way)

    assert capture(client, 3)["sent"] == 3
    assert secure.connections == 1


def test_certificate_of_the_environment(
    secure: SentryServer,
    make_client: Callable[..., SentryClient],
    trusted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`SSL_CERT_FILE` is honoured."""
    monkeypatch.setenv("SSL_CERT_FILE", trusted)

    assert capture(make_client(secure_dsn(secure)))["sent"] == 1


def test_certificate_of_another(
    secure: SentryServer,
    make_client: Callable[..., SentryClient],
    trusted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A certificate for another name is not trusted."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", ())
    client = make_client(secure_dsn(secure, "localhost.localdomain"), ca_certs=trusted)

    assert capture(client)["discarded"] == {"network_error": 1}
    assert secure.received == []


# Proxies


class Tunnel(threading.Thread):
    """A proxy that opens one tunnel, or refuses to; it notes what it was asked for."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.answer = answer
        self.asked: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):
            client, _ = self.listener.accept()
            self.asked.append(client.recv(65_536))
            client.sendall(self.answer)
            if b" 200 " not in self.answer:
                client.close()
                return
            port = int(self.asked[-1].split()[1].rpartition(b":")[2])
            pump(client, socket.create_connection(("127.0.0.1", port)))


def pump(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until the ends."""

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with one, other:
        back = threading.Thread(target=copy, args=(other, one))
        back.start()
        copy(one, other)
        back.join()


@contextmanager
def tunnelling(**options: bytes) -> Iterator[Tunnel]:
    """Run a proxy for the block."""
    tunnel = Tunnel(**options)
    tunnel.start()
    try:
        yield tunnel
    finally:
        tunnel.listener.close()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_tunnel(
    secure: SentryServer,
    make_client: Callable[..., SentryClient],
    trusted: str,
    way: dict[str, str],
) -> None:
    """Through a proxy TLS is spoken with the server itself, whose certificate is checked."""
    with tunnelling() as tunnel:
        client = make_client(secure_dsn(secure), ca_certs=trusted, proxy=tunnel.url, **way)

        assert capture(client, 3)["sent"] == 3
        client.close()
        tunnel.join(10)
    assert len(tunnel.asked) == 1
    assert tunnel.asked[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % secure.server_port)


def test_tunnel_refused(
    secure: SentryServer,
    make_client: Callable[..., SentryClient],
    trusted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy that opens no tunnel is the network's fault; nothing else is said to it."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", ())
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with tunnelling(answer=refusal) as tunnel:
        client = make_client(secure_dsn(secure), ca_certs=trusted, proxy=tunnel.url)

        assert capture(client)["discarded"] == {"network_error": 1}
    assert len(tunnel.asked) == 1
    assert b"sentry" not in tunnel.asked[0]


def test_proxy_with_a_password(
    scripted: Callable[..., Scripted], make_client: Callable[..., SentryClient]
) -> None:
    """A proxy that wants a password is told it, by httpx."""
    proxy = scripted(OK)
    url = proxy.dsn.replace("key@", "ada:hunter2@").removesuffix("/1")
    client = make_client("http://key@sentry.invalid/1", proxy=url)

    assert capture(client)["sent"] == 1
    assert b"proxy-authorization: basic ywrhomh1bnrlcji=" in proxy.requests[0].lower()
