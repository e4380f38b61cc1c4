"""A server of the Sentry protocol for tests: it remembers what it gets and answers as told."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer:
    """What the server says to one request."""

    def __init__(
        self,
        status: int = 200,
        headers: dict[str, str] | None = None,
        body: bytes = b"{}",
        *,
        fault: str | None = None,
    ) -> None:
        #: The name of one of `_Handler`'s faults, in the answer's place.
        self.fault = fault
        self.status = status
        self.headers = headers or {}
        self.body = body


class Received:
    """One request, taken apart."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.size = len(body)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.header, self.items = parse_envelope(body)

    def item(self, kind: str) -> Any:
        """Return the payload of the item of a type, None without one."""
        return next((payload for header, payload in self.items if header["type"] == kind), None)

    @property
    def event(self) -> Any:
        return self.item("event")


def parse_envelope(body: bytes) -> tuple[Any, list[tuple[Any, Any]]]:
    """Read an envelope by its lengths, as servers do."""
    line, _, rest = body.partition(b"\n")
    header, items = json.loads(line), []
    while rest:
        line, _, rest = rest.partition(b"\n")
        item = json.loads(line)
        payload, rest = rest[: item["length"]], rest[item["length"] :]
        assert rest.startswith(b"\n")
        items.append((item, json.loads(payload)))
        rest = rest[1:]
    return header, items


class SentryServer(ThreadingHTTPServer):
    """Answers with what `answers` holds, in order, then with 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.received: list[Received] = []
        self.connections = 0
        #: Cleared: no request is answered before it is set again.
        self.answering = threading.Event()
        self.answering.set()
        #: Set when the test is over.
        self.over = threading.Event()
        self.faults = 0
        self.arrived = threading.Semaphore(0)

    @property
    def dsn(self) -> str:
        return f"http://key:hunter2@127.0.0.1:{self.server_port}/1"

    @property
    def events(self) -> list[Any]:
        return [received.event for received in self.received]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Headers and body leave in two pieces, which would wait 40 ms for each other.
    disable_nagle_algorithm = True
    server: SentryServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        if answer.fault is not None:
            self.server.faults += 1
            self.close_connection = True
            getattr(self, f"fault_{answer.fault}")()
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.path, headers, body))
        self.server.arrived.release()
        self.server.answering.wait(10)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def fault_reset(self) -> None:
        """Reset the connection in the middle of the body."""
        self.rfile.read(10)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def fault_hang_up(self) -> None:
        """Take the whole body, and close without an answer."""
        self.rfile.read(int(self.headers["Content-Length"]))

    def fault_half_open(self) -> None:
        """Take the body and say nothing, the connection staying open."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.over.wait(20)

    def fault_half_an_answer(self) -> None:
        """Begin an answer and say no more."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
        self.server.over.wait(20)

    def fault_trickle(self) -> None:
        """Accept the event, and go on answering for ever, a byte now and then."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        with suppress(OSError):
            while not self.server.over.wait(0.02):
                self.wfile.write(b" ")

    def fault_garbage(self) -> None:
        """Answer what is not HTTP."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"\x00\xff garbage \x16\x03\r\n\r\n")

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[SentryServer]:
    """Run a server for the block."""
    with SentryServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.answering.set()
            server.over.set()
            server.shutdown()
            thread.join()
