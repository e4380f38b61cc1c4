"""Posts over one socket of our own, which is kept open: a fifth of what an HTTP library costs."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from usercontext.sentry.delivery.answer import read_answer
from usercontext.sentry.delivery.network import NetworkError, ProxyError, reason_of
from usercontext.sentry.delivery.proxies import SOCKS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from usercontext.sentry.delivery.answer import Answer
    from usercontext.sentry.delivery.fork_guard import ForkGuard

__all__ = ["Place", "SocketConnection"]

_KEEPALIVE_SECONDS = 30.0
_PORTS = {"http": 80, "https": 443, **dict.fromkeys(SOCKS, 1080)}


class Place(NamedTuple):
    """Where an URL leads to."""

    scheme: str
    host: str
    port: int
    #: Host and port as they stand in a URL.
    named: str
    #: What is asked for there.
    target: str
    #: Name and password for it.
    login: tuple[str, str] | None = None

    @classmethod
    def of(cls, url: str) -> Place:
        """Return the place of an URL of a server or proxy."""
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        named = parts.netloc.rpartition("@")[2]
        login = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(
            parts.scheme,
            parts.hostname or "",
            port,
            named,
            parts.path or "/",
            login if any(login) else None,
        )


class SocketConnection:
    """One process's connection to a server, straight or through an HTTP proxy.

    Args:
        place: the server's endpoint.
        headers: what each request says.
        timeout: seconds for each of connecting, writing and reading.
        forks: holds forks back while a connection is being made.
        proxy: the proxy, if there is one: of plain HTTP without a password, or of SOCKS 5.
        ssl_context: returns what checks the server's certificate, where that is asked for.
    """

    def __init__(
        self,
        place: Place,
        headers: Mapping[str, str],
        *,
        timeout: float,
        forks: ForkGuard,
        proxy: Place | None,
        ssl_context: Callable[[], ssl.SSLContext],
    ) -> None:
        self._place = place
        self._timeout = timeout
        self._forks = forks
        self._proxy = proxy
        self._make_ssl_context = ssl_context
        self._ssl_context: ssl.SSLContext | None = None
        is_forwarded = proxy is not None and proxy.scheme == place.scheme == "http"
        target = f"http://{place.named}{place.target}" if is_forwarded else place.target
        lines = [f"POST {target} HTTP/1.1", f"Host: {place.named}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode("ascii")
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def exchange(self, body: bytes, encoding: str | None) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers.

        Raises:
            NetworkError: there was no answer.
        """
        coding = b"" if encoding is None else b"\r\nContent-Encoding: " + encoding.encode()
        request = b"%b%d%b\r\n\r\n%b" % (self._head, len(body), coding, body)
        try:
            answer = self._ask(self._connected(), request)
        except (OSError, ValueError) as error:
            self.close()
            raise NetworkError(reason_of(error)) from error
        except BaseException:
            self.close()  # Half a request may be on its way.
            raise
        if answer.is_reusable:
            self._used_at = monotonic()
        else:
            self.close()
        return answer.status, answer.headers

    def close(self) -> None:
        """Close what is open."""
        connection, self._socket = self._socket, None
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def after_fork_in_child(self) -> None:
        """Close the child's handle of the parent's socket, which says nothing to the server."""
        if self._socket is not None:
            # Not `close()`: TLS may say goodbye, in the parent's name.
            with suppress(OSError):
                socket.close(self._socket.detach())
            self._socket = None

    def _ask(self, connection: socket.socket, request: bytes) -> Answer:
        connection.settimeout(self._timeout)
        try:
            connection.sendall(request)
        except TimeoutError:
            raise
        except OSError:
            pass  # A server may answer and hang up before it has read all: its answer counts.
        return read_answer(connection, self._timeout)

    def _connected(self) -> socket.socket:
        """Return the connection, a new one if it was used too long ago, or the server closed it."""
        if self._socket is not None and not self._is_usable(self._socket):
            self.close()
        if self._socket is None:
            with self._forks.request() as connecting:
                connecting.begin()
                self._socket = self._connect()
        return self._socket

    def _is_usable(self, connection: socket.socket) -> bool:
        if monotonic() - self._used_at > _KEEPALIVE_SECONDS:
            return False
        # Nothing was asked: what there is to read is the end, or not an answer of ours.
        return not _is_readable(connection)

    def _connect(self) -> socket.socket:
        connection = self._connect_to(self._place) if self._proxy is None else self._go_through()
        try:
            return connection if self._place.scheme == "http" else self._secured(connection)
        except BaseException:
            connection.close()
            raise

    def _connect_to(self, place: Place) -> socket.socket:
        connection = socket.create_connection((place.host, place.port), self._timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _go_through(self) -> socket.socket:
        """Return a connection to the proxy on which all else is as it is without one."""
        proxy = self._proxy or self._place
        try:
            connection = self._connect_to(proxy)
            try:
                self._open_tunnel(connection, proxy)
            except BaseException:
                connection.close()
                raise
        except (OSError, ValueError) as error:
            why = str(error) if isinstance(error, ProxyError) else reason_of(error)
            raise ProxyError(f"the proxy {proxy.host}:{proxy.port} does not help: {why}") from error
        return connection

    def _open_tunnel(self, connection: socket.socket, proxy: Place) -> None:
        if proxy.scheme in SOCKS:
            from usercontext.sentry.delivery.socks import open_way  # few have one

            open_way(connection, self._place.host, self._place.port, proxy.login)
        elif self._place.scheme == "https":
            self._open_http_tunnel(connection)

    def _open_http_tunnel(self, connection: socket.socket) -> None:
        place = f"{self._place.named.removesuffix(f':{self._place.port}')}:{self._place.port}"
        connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode("ascii"))
        status = read_answer(connection, self._timeout, has_body=False).status
        connection.settimeout(self._timeout)
        if not 200 <= status < 300:
            raise ProxyError(f"it answered {status}")

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self._ssl_context is None:
            self._ssl_context = self._make_ssl_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context.wrap_socket(connection, server_hostname=self._place.host)


def _is_readable(connection: socket.socket) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()  # Takes descriptors above 1023, too.
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
