"""A client that does to a connection what browsers, proxies and attackers do.

It speaks HTTP/1.1 on a plain socket: keep-alive, pipelining, large bodies, streams that are read
by halves. It also hears what apps observe after their response is over.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Asked", "Connection", "ConnectionLostError", "Observer", "Response"]

PATIENCE = 15.0  # seconds; only a failing test waits so long


class ConnectionLostError(ConnectionError):
    """The server closed the connection before a response was complete."""


@dataclass(frozen=True)
class Asked:
    """A request: its path, headers, body and method."""

    path: str
    headers: dict[str, str]
    body: bytes = b""
    method: str = "GET"

    def encoded(self) -> bytes:
        """Return what goes over the wire."""
        headers = {"host": "test", **self.headers}
        if self.body:
            headers["content-length"] = str(len(self.body))
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Response:
    """A response, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def lines(self) -> list[str]:
        """Return the body's lines."""
        return self.body.decode().split()


class Connection:
    """One connection; when the server closes it between requests, it connects anew.

    `settle` is called with the last request before the next one on the same connection is sent.
    """

    def __init__(
        self,
        port: int,
        address: str = "127.0.0.1",
        settle: Callable[[Asked], object] = lambda asked: None,
    ) -> None:
        self._port = port
        self._from = address, 0
        self._settle = settle
        self._last: Asked | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, whatever is still under way."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def send(self, *requests: Asked) -> None:
        """Send requests at once: more than one is pipelining."""
        if self._socket is None:
            self._socket = socket.create_connection(
                ("127.0.0.1", self._port), PATIENCE, source_address=self._from
            )
        elif self._last is not None:
            self._settle(self._last)
        self._last = requests[-1]
        self._socket.sendall(b"".join(request.encoded() for request in requests))

    def request(self, request: Asked) -> Response:
        """Send a request and read its response; once more if an idle connection was closed."""
        reused = self._socket is not None
        try:
            self.send(request)
            return self.read(request.method)
        except (ConnectionLostError, ConnectionResetError, BrokenPipeError):
            self.close()
            if not reused:
                raise
        return self.request(request)

    def pipeline(self, *requests: Asked, answered: int | None = None) -> list[Response]:
        """Send requests at once; those that the server drops are sent again, one by one.

        `answered` is how many of them a server answers that is known to leave the rest waiting.
        """
        self.send(*requests)
        responses = self._answers(requests[:answered])
        self.close()
        return responses + [self.request(request) for request in requests[len(responses) :]]

    def _answers(self, requests: tuple[Asked, ...]) -> list[Response]:
        responses: list[Response] = []
        for request in requests:
            if self._socket is None:
                break
            try:
                responses.append(self.read(request.method))
            except (ConnectionLostError, ConnectionResetError):
                break
        return responses

    def read(self, method: str = "GET") -> Response:
        """Read one response."""
        status, headers = self._head()
        body = b""
        if method != "HEAD":
            body = self._body(headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Response(status, headers, body)

    def read_some(self, size: int) -> bytes:
        """Read so much of a response and no more, as a client does that goes away."""
        while len(self._buffer) < size:
            self._more()
        return self._buffer

    def _head(self) -> tuple[int, dict[str, str]]:
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in head[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        status = int(head[0].split()[1])
        return (status, headers) if status >= 200 else self._head()

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            return b"".join(self._chunks())
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        return self._rest()

    def _chunks(self) -> Iterable[bytes]:
        while size := int(self._until(b"\r\n"), 16):
            yield self._exactly(size)
            self._until(b"\r\n")
        self._until(b"\r\n")

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _rest(self) -> bytes:
        try:
            while True:
                self._more()
        except ConnectionLostError:
            found = self._buffer
        self.close()
        return found

    def _more(self) -> None:
        assert self._socket is not None
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionLostError("the server closed the connection")
        self._buffer += received


class Observer:
    """Hears what apps observe, over a datagram socket that all their processes share."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "observed")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._seen: dict[tuple[str, str], list[Any]] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Stop hearing."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def wait(self, request: str, point: str) -> Any:
        """Return what was last seen at this point of this request, as soon as it was."""
        with self._news:
            known = self._news.wait_for(lambda: (request, point) in self._seen, PATIENCE)
            if not known:
                points = sorted(p for r, p in self._seen if r == request)
                raise TimeoutError(f"nothing was observed at {point!r}; only at {points}")
            return self._seen[request, point][-1]

    def all(self, request: str, point: str) -> list[Any]:
        """Return everything seen at this point of this request so far."""
        with self._news:
            return list(self._seen.get((request, point), ()))

    def _listen(self) -> None:
        while datagram := self._socket.recv(65536):
            said = json.loads(datagram)
            with self._news:
                self._seen.setdefault((said["request"], said["point"]), []).append(said["seen"])
                self._news.notify_all()
