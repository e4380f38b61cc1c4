"""Measure what usercontext costs a uvicorn process, from end to end.

    python benchmarks/overhead_uvicorn.py                    # some minutes
    python benchmarks/overhead_uvicorn.py --loop uvloop
    python benchmarks/overhead_uvicorn.py --no-instructions  # CPU time alone

Each variant of the trivial app is served by a uvicorn of its own; one client sends requests over
one connection, to the servers in turn. CPU is the server process's own; instructions are counted
by callgrind between two of the requests. Neither is what a client waits for.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overhead import Instructions, Progress, environment
from overhead_rows import HEADERS, ROWS, asgi_app
from overhead_tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

VARIANTS = ("asgi.bare", "asgi.pass-through", "asgi.floor", "asgi.unread", "asgi.sentry-sdk")
WARM_UP = 500
REQUESTS = 300
ROUNDS = 20


# --- the server -------------------------------------------------------------------------------


def _serve(name: str, loop: str) -> None:
    """Serve the app of a row on a port of its own, which is printed."""
    import gc

    import uvicorn

    row = next(row for row in ROWS if row.name == name)
    wrap, act = row.build()
    app = asgi_app(act)
    served = wrap(app)
    library = os.environ.get("OVERHEAD_SWITCH")
    switch = None if library is None else ctypes.CDLL(library)

    async def told(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/orders/17":
            await served(scope, receive, send)
            return
        if switch is not None:
            (switch.start_counting if path == "/start" else switch.stop_counting)()
        body = str(time.process_time_ns()).encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        told,
        loop=loop,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        proxy_headers=False,
        timeout_keep_alive=600,
    )
    gc.disable()
    uvicorn.Server(config).run([listener])


class Server:
    """A uvicorn process that serves one row's app, and a connection to it."""

    def __init__(self, name: str, loop: str, prefix: Sequence[str] = (), **more: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__, "--serve", name, "--loop", loop],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if prefix else None,
            text=True,
            env={**environment(), **more},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} cannot be served")
        self._connection = self._connect(int(line))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connect(self, port: int) -> socket.socket:
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=60)
            except ConnectionRefusedError:
                time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def ask(self, path: str) -> bytes:
        """Send a request; return the body of its answer."""
        self._connection.sendall(_request(path))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        match = re.search(rb"content-length: (\d+)", head)
        assert match is not None
        while len(body) < int(match[1]):
            body += self._receive()
        return body

    def _receive(self) -> bytes:
        received = self._connection.recv(65536)
        if not received:
            raise RuntimeError("the server has closed the connection")
        return received

    def send(self, requests: int) -> None:
        """Send a number of requests to the app."""
        for _ in range(requests):
            self.ask("/orders/17")

    def spend(self, requests: int) -> float:
        """Return the microseconds of CPU that the server spends on one request."""
        before = int(self.ask("/cpu"))
        self.send(requests)
        return (int(self.ask("/cpu")) - before) / requests / 1000

    def close(self) -> None:
        """Let the process end by itself, and wait for that."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(60)


def _request(path: str) -> bytes:
    lines = [f"GET {path}?page=2&sort=date HTTP/1.1".encode()]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in HEADERS), b"", b""])


# --- what is measured -------------------------------------------------------------------------


def _time(loop: str, progress: Progress) -> dict[str, list[float]]:
    servers = {name: Server(name, loop) for name in VARIANTS}
    rounds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for server in servers.values():
        server.send(WARM_UP)
    for turn in range(ROUNDS):
        progress.say(f"timing, round {turn + 1} of {ROUNDS}")
        for name, server in servers.items():
            rounds[name].append(server.spend(REQUESTS))
    for server in servers.values():
        server.close()
    return rounds


def _count(loop: str, progress: Progress) -> dict[str, float]:
    counts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = Instructions(Path(folder)).library
        if library is None:
            return counts
        for name in VARIANTS:
            progress.say(f"counting instructions of {name}")
            out = Path(folder) / f"{name}.out"
            prefix = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
            prefix.append(f"--callgrind-out-file={out}")
            server = Server(name, loop, prefix, OVERHEAD_SWITCH=library)
            server.send(WARM_UP)
            server.ask("/start")
            server.send(REQUESTS)
            server.ask("/stop")
            server.close()
            match = re.search(
                r"^totals: (\d+)", out.with_name(out.name + ".1").read_text(), re.MULTILINE
            )
            assert match is not None
            counts[name] = int(match[1]) / REQUESTS
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure what usercontext costs uvicorn.")
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    parser.add_argument("--no-instructions", action="store_true", help="do not run valgrind")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        _serve(options.serve, options.loop)
        return 0
    progress = Progress()
    rounds = _time(options.loop, progress)
    counting = not options.no_instructions and shutil.which("valgrind") is not None
    counts = _count(options.loop, progress) if counting else {}
    progress.say("")
    bare = rounds["asgi.bare"]
    lines = []
    for name, spent in rounds.items():
        # A machine's speed swings: rounds are compared with the bare app's of the same moment.
        ratio = statistics.median(one / other for one, other in zip(spent, bare, strict=True))
        more = counts.get(name, 0) - counts.get("asgi.bare", 0)
        lines.append(
            [
                name,
                f"{counts[name]:,.0f}" if counts else "-",
                f"{more:,.0f}" if counts else "-",
                f"{min(spent):.1f}",
                f"{min(spent) / min(bare):.3f}",
                f"{ratio:.3f}",
            ]
        )
    header = ["row", "instr.", "over bare", "best us", "x bare", "x bare, median of rounds"]
    print(f"uvicorn on {options.loop}, httptools\n")
    print_table(header, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
