"""What delivering reports costs: the caller, events a second, memory; beside sentry-sdk.

    python benchmarks/delivery.py [rounds]

Every figure comes from a process of its own; those of the clients take turns, so that a busy
machine slows both. Best of all rounds, and ratios of these.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = ("usercontext", "usercontext, outbox", "sentry-sdk")
ROUNDS = 5
CAPTURES = 600
BURST = 20
DRAINED = 1000
FLOOD = 100_000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Sink:
    """Takes every envelope: reads a body by its length or its chunks, and says 200."""

    def __init__(self, connection: socket.socket) -> None:
        self.buffer = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 20):
                self.buffer += data
                while (end := self._end()) is not None:
                    self.buffer = self.buffer[end:]
                    connection.sendall(ANSWER)

    def _end(self) -> int | None:
        head, separator, _ = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                end = len(head) + 4 + int(value)
                return end if len(self.buffer) >= end else None
        last = self.buffer.find(b"0\r\n\r\n", len(head) + 4)
        return None if last < 0 else last + 5


def serve() -> None:
    """Serve on a port of the system's choice, and say which; a thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=Sink, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run the server in a process of its own; its DSN."""
    with subprocess.Popen(
        [sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://{'0' * 32}@127.0.0.1:{port}/1"
        finally:
            process.terminate()


class Client:
    """The three calls that all clients have."""

    def __init__(self, name: str, dsn: str, directory: str, queue: int) -> None:
        if name == "sentry-sdk":
            import sentry_sdk

            sentry_sdk.init(dsn, include_local_variables=False, transport_queue_size=queue)
            self.exception: Callable[[], object] = sentry_sdk.capture_exception
            self.message: Callable[[str], object] = sentry_sdk.capture_message
            self.flush: Callable[[float], object] = sentry_sdk.flush
            self.stats: Callable[[], dict[str, Any]] = dict
            return
        from usercontext.sentry import SentryClient

        outbox = f"{directory}/outbox.db" if "outbox" in name else None
        client = SentryClient(dsn, outbox=outbox, max_queue=queue, max_queue_bytes=1 << 30)
        self.exception, self.message = client.capture_exception, client.capture_message
        self.flush, self.stats = client.flush, client.stats


def fail(depth: int) -> None:
    """Raise in the last of so many frames."""
    if depth == 0:
        raise ValueError("the tenth frame")
    fail(depth - 1)


def caller(client: Client) -> float:
    """Return the microseconds of the fastest capture of an exception of ten frames."""
    best = float("inf")
    for number in range(CAPTURES):
        try:
            fail(8)
        except ValueError:
            begin = time.perf_counter_ns()
            client.exception()
            best = min(best, (time.perf_counter_ns() - begin) / 1000)
        if number % BURST == BURST - 1:
            client.flush(10)
    return best


def drained(client: Client) -> float:
    """Return how many events a second reach the server."""
    client.message("the connection is open")
    client.flush(10)
    begin = time.perf_counter()
    for _ in range(DRAINED):
        client.message("hello")
    client.flush(120)
    return DRAINED / (time.perf_counter() - begin)


def flood(client: Client) -> float:
    """Return by how many MiB the process grows in 100,000 captures at a dead server."""
    for _ in range(500):
        client.message("hello")
    client.flush(10)  # What is loaded once, for whatever number of captures, is loaded.
    before = _resident()
    for _ in range(FLOOD):
        client.message("hello")
    after = _resident()
    stats = client.stats()
    if stats:
        known = stats["sent"] + stats["queued"] + sum(stats["discarded"].values())
        assert stats["captured"] == known == FLOOD + 500
    return after - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


FIGURES: dict[str, tuple[str, Callable[[Client], float], Callable[[list[float]], float]]] = {
    "caller": ("capture, 10 frames, us in the caller", caller, min),
    "drained": ("events a second to a local server", drained, max),
    "flood": ("MiB more after 100,000 captures at a dead server", flood, max),
}


def measured(figure: str, client: str, dsn: str) -> float:
    """Measure one figure of one client in a process of its own."""
    command = [sys.executable, __file__, figure, client, dsn]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def measure(rounds: int) -> None:
    """Print a table of each figure."""
    for figure, (title, _, best_of) in FIGURES.items():
        values: dict[str, list[float]] = {client: [] for client in CLIENTS}
        with serving() as dsn:
            target = dsn if figure != "flood" else "http://key@127.0.0.1:9/1"
            for _ in range(rounds if figure != "flood" else 1):
                for client in CLIENTS:
                    values[client].append(measured(figure, client, target))
        best = {client: best_of(values[client]) for client in CLIENTS}
        print(f"\n| {title} | best | of sentry-sdk's |\n| --- | --- | --- |")
        for client in CLIENTS:
            print(f"| {client} | {best[client]:,.1f} | {best[client] / best['sentry-sdk']:.2f} |")


def main(arguments: list[str]) -> None:
    """Measure all, or be one of the processes that do."""
    if arguments[:1] == ["serve"]:
        serve()
    elif len(arguments) == 3:
        figure, name, dsn = arguments
        queue = 100 if figure == "flood" else DRAINED * 2
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(FIGURES[figure][1](Client(name, dsn, directory, queue))), flush=True)
            sys.stderr.close()
            import os

            os._exit(0)
    else:
        measure(int(arguments[0]) if arguments else ROUNDS)


if __name__ == "__main__":
    main(sys.argv[1:])
