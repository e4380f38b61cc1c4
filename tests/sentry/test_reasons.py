"""Why nothing can be sent is told in one line: certificate, name, refusal, time-out, proxy."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.exceptions import ConfigurationError, MissingDependencyError
from usercontext.sentry import SentryClient
from usercontext.sentry.delivery import http
from usercontext.sentry.delivery.proxies import environment_proxy
from usercontext.sentry.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sentry.server import SentryServer

pytest.importorskip("httpx")

WAYS = {"socket": {}, "httpx": {"transport": "httpx"}}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the environment name no proxy, and try each report once."""
    monkeypatch.setattr(http, "_RETRY_SECONDS", ())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen, and answer nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port_of(listening: socket.socket) -> int:
    """Return the port of a socket."""
    return int(listening.getsockname()[1])


def told(client: SentryClient, caplog: pytest.LogCaptureFixture) -> str:
    """Have a client lose a report, and return what it says of that."""
    client.capture_message("lost")
    assert client.flush(20.0)
    assert client.stats()["discarded"] == {"network_error": 1}
    (record,) = caplog.records
    assert "\n" not in caplog.text.rstrip()
    return record.getMessage()


@ways
def test_a_refused_connection(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """Where nobody listens, host, port and the refusal are named."""
    said = told(make_client("http://key@127.0.0.1:1/1", **way), caplog)
    assert said == (
        "usercontext cannot reach 127.0.0.1:1 and drops reports until it can: "
        "the connection was refused"
    )


@ways
def test_an_unknown_name(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """A name that no server of names knows is not a refusal."""
    said = told(make_client("https://key@sentry.invalid/1", **way), caplog)
    assert said.startswith("usercontext cannot reach sentry.invalid:443 and drops reports")
    assert "the name is not known" in said


@ways
def test_a_time_out(
    listener: socket.socket,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    way: Any,
) -> None:
    """A server that takes the connection and says nothing is not a refusal either."""
    dsn = f"http://key@127.0.0.1:{port_of(listener)}/1"
    assert told(make_client(dsn, timeout=0.1, **way), caplog).endswith(
        "until it can: there was no answer in time"
    )


@ways
def test_a_certificate(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """A certificate that nobody vouches for is named as the reason, with what to do."""
    trustme = pytest.importorskip("trustme")
    import http.server
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = told(make_client(f"https://key@localhost:{server.server_port}/1", **way), caplog)
    finally:
        server.shutdown()
        server.server_close()
    assert "the certificate is not trusted: unable to get local issuer certificate" in said
    assert "ca_certs=" in said


@ways
def test_no_tls(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    way: Any,
) -> None:
    """A server that speaks plain HTTP where TLS is expected is told apart from one that is away."""
    assert "TLS failed" in told(make_client(server.dsn.replace("http:", "https:"), **way), caplog)


def test_what_is_no_http(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture
) -> None:
    """Something else that listens at the port answers in another way."""
    with Answering(b"220 mail.example ESMTP\r\n\r\n") as port:
        said = told(make_client(f"http://key@127.0.0.1:{port}/1"), caplog)
    assert said.endswith("the answer is not one of HTTP")


@ways
def test_each_reason_is_said_once(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """One reason is said once, and another one afterwards is not taken for the same."""
    refused = make_client("http://key@127.0.0.1:1/1", **way)
    by_proxy = make_client("http://key@127.0.0.1:1/1", proxy="http://127.0.0.1:2", **way)
    for client, said in ((refused, 1), (refused, 1), (by_proxy, 2), (by_proxy, 2)):
        client.capture_message("lost")
        assert client.flush(20.0)
        assert len(caplog.records) == said


# --- proxies --------------------------------------------------------------------------------------


class Answering(ExitStack):
    """Answer every connection with the same bytes; the block is given the port."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer

    def __enter__(self) -> int:  # type: ignore[override]
        listening = self.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=self.serve, args=(listening,), daemon=True).start()
        return port_of(listening)

    def serve(self, listening: socket.socket) -> None:
        """Answer until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass


@ways
def test_a_proxy_that_is_away(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """A proxy that cannot be reached is named, not the server behind it; its password never is."""
    dsn, proxy = "https://key@sentry.example/1", "http://ada:hunter2@127.0.0.1:1"
    said = told(make_client(dsn, proxy=proxy, **way), caplog)
    assert "the proxy 127.0.0.1:1" in said
    assert "the connection was refused" in said
    assert "hunter2" not in said


@ways
def test_a_proxy_that_refuses(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    """What a proxy answers instead of opening a tunnel is told."""
    with Answering(b"HTTP/1.1 407 Login first\r\nContent-Length: 0\r\n\r\n") as port:
        proxy = f"http://127.0.0.1:{port}"
        said = told(make_client("https://key@sentry.example/1", proxy=proxy, **way), caplog)
    assert f"the proxy 127.0.0.1:{port}" in said
    assert "407" in said


class Socks(threading.Thread):
    """A SOCKS 5 proxy that leads everywhere to one server."""

    def __init__(self, port: int, *, login: bytes = b"", refuses: int = 0) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port, self.login, self.refuses = port, login, refuses
        self.asked: list[bytes] = []

    def run(self) -> None:
        """Serve until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                with connection, suppress(ConnectionError):
                    self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        """Open one way, and carry what goes along it."""
        methods = connection.recv(2)[1]
        offered = connection.recv(methods)
        wanted = 2 if self.login else 0
        if wanted not in offered:
            connection.sendall(b"\5\xff")
            return
        connection.sendall(bytes((5, wanted)))
        if self.login:
            given = connection.recv(512)
            connection.sendall(b"\1\0" if given == self.login else b"\1\1")
            if given != self.login:
                return
        self.asked.append(connection.recv(512))
        connection.sendall(b"\5%c\0\1\0\0\0\0\0\0" % self.refuses)
        if not self.refuses:
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                carry(connection, server)


def carry(near: socket.socket, far: socket.socket) -> None:
    """Carry bytes both ways until the near end closes."""

    def back() -> None:
        with suppress(OSError):
            while received := far.recv(65_536):
                near.sendall(received)

    threading.Thread(target=back, daemon=True).start()
    while received := near.recv(65_536):
        far.sendall(received)


@pytest.fixture
def socks(server: SentryServer) -> Iterator[Callable[..., Socks]]:
    """Start SOCKS proxies that lead to the server."""
    started: list[Socks] = []

    def start(**options: Any) -> Socks:
        started.append(Socks(server.server_port, **options))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.listening.close()


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h"])
def test_a_socks_proxy_of_the_environment(
    server: SentryServer,
    socks: Callable[..., Socks],
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    """ALL_PROXY of SOCKS, as desktops write it too, needs no package; it looks up the name."""
    proxy = socks()
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{port_of(proxy.listening)}")
    client = make_client("http://key@sentry.invalid/1")
    client.capture_message("x")
    assert client.flush(20.0)
    assert client.stats()["sent"] == 1
    assert proxy.asked == [b"\5\1\0\3\x0esentry.invalid\0\x50"]
    assert len(server.events) == 1


HOSTS = {
    "127.0.0.9": b"\1\x7f\0\0\x09",
    "[2001:db8::9]": b"\4" + socket.inet_pton(socket.AF_INET6, "2001:db8::9"),
}


@pytest.mark.parametrize(("host", "place"), HOSTS.items(), ids=HOSTS)
def test_an_address_behind_a_socks_proxy(
    socks: Callable[..., Socks],
    make_client: Callable[..., SentryClient],
    host: str,
    place: bytes,
) -> None:
    """Addresses are handed to the proxy as such."""
    proxy = socks()
    url = f"socks5h://127.0.0.1:{port_of(proxy.listening)}"
    client = make_client(f"http://key@{host}:9000/1", proxy=url)
    client.capture_message("x")
    assert client.flush(20.0)
    assert proxy.asked == [b"\5\1\0" + place + struct.pack(">H", 9000)]


def test_a_socks_proxy_with_a_password(
    socks: Callable[..., Socks], make_client: Callable[..., SentryClient]
) -> None:
    """Name and password of the URL are told it."""
    proxy = socks(login=b"\1\3ada\7hunter2")
    url = f"socks5://ada:hunter2@127.0.0.1:{port_of(proxy.listening)}"
    client = make_client("http://key@sentry.invalid/1", proxy=url)
    client.capture_message("x")
    assert client.flush(20.0)
    assert client.stats()["sent"] == 1


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a rule": ({"refuses": 2}, "", "its rules forbid the server"),
    "unknown": ({"refuses": 9}, "", "it answered 9"),
    "no login": ({"login": b"\1\3ada\7hunter2"}, "", "needs a name and password"),
    "a wrong login": ({"login": b"\1\3ada\7hunter2"}, "ada:x@", "refused the name or password"),
    "a login too much": ({}, "ada:x@", "takes no name and password"),
}


@pytest.mark.parametrize(("options", "login", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_socks_proxy_that_refuses(  # noqa: PLR0917
    socks: Callable[..., Socks],
    make_client: Callable[..., SentryClient],
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    login: str,
    why: str,
) -> None:
    """Why a proxy opens no way is told in words."""
    url = f"socks5://{login}127.0.0.1:{port_of(socks(**options).listening)}"
    said = told(make_client("http://key@sentry.invalid/1", proxy=url), caplog)
    assert "the proxy 127.0.0.1:" in said
    assert why in said
    assert "hunter2" not in said


def test_something_else_than_a_socks_proxy(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy of another kind, and one that hangs up, are the proxy's fault."""
    for number, answer in enumerate((b"HTTP/1.1 400 Bad Request\r\n\r\n", b"")):
        with Answering(answer) as port:
            proxy = f"socks5://127.0.0.1:{port}"
            client = make_client("http://key@sentry.invalid/1", proxy=proxy)
            client.capture_message("x")
            assert client.flush(20.0)
        assert f"the proxy 127.0.0.1:{port} does not help" in caplog.records[number].getMessage()


@pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")
def test_httpx_without_socksio() -> None:
    """Httpx cannot use a SOCKS proxy without socksio, which is said at once."""
    with pytest.raises(MissingDependencyError, match="pip install socksio"):
        SentryClient("http://key@s.example/1", proxy="socks5://p.example", transport="httpx")


WRONG = ["ftp://p.example", "socks4://p.example", "http://:3128", "http://p.example:x"]


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of another kind is refused at the start, in the option and in the environment."""
    with pytest.raises(ConfigurationError, match="write proxy="):
        SentryClient("https://key@sentry.example/1", proxy=url)
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(ConfigurationError, match="ALL_PROXY") as caught:
        SentryClient("https://key@sentry.example/1")
    assert url not in str(caught.value)
    SentryClient("https://key@sentry.example/1", proxy="http://right.example").close(0)


BYPASSED: list[tuple[str, str, bool]] = [
    ("10.1.2.3", "10.0.0.0/8", True),
    ("10.1.2.3", "localhost, 10.1.0.0/16", True),
    ("10.1.2.3", "192.168.0.0/16", False),
    ("[2001:db8::9]:9000", "2001:db8::/32", True),
    ("[2001:db8::9]", "[2001:db8::9]", True),
    ("[2001:db8::9]", "2001:db8::9", True),
    ("[2001:db8::9]:9000", "[2001:db8::9]:9000", True),
    ("[2001:db8::9]", "2001:db8::8", False),
    ("sentry.example", "10.0.0.0/8", False),
    ("sentry.example", "sentry.example", True),
    ("sentry.example", "EXAMPLE", True),
    ("sentry.example", ".example", True),
    ("sentry.example", "*.example", True),
    ("sentry.example", "try.example", False),
    ("sentry.example", "a b sentry.example", True),
    ("sentry.example:9000", "sentry.example:9000", True),
    ("sentry.example:9000", "sentry.example:9001", False),
    ("sentry.example:9000", "sentry.example", True),
    ("sentry.example", "*", True),
    ("sentry.example", "", False),
    ("10.1.2.3", "junk/8", False),
]


@pytest.mark.parametrize(("host", "no_proxy", "expected"), BYPASSED)
def test_no_proxy(
    host: str, no_proxy: str, *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY holds names, suffixes, addresses, networks and ports."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = environment_proxy(Dsn(f"http://key@{host}/1"))
    assert found == (None if expected else "http://proxy.example:3128")
