"""Measure the server's CPU of one request on a real uvicorn, with and without usercontext.

    python benchmarks/uvicorn_cpu.py                       # h11 and httptools
    python benchmarks/uvicorn_cpu.py --rounds 9 --requests 4000

Each app is served by a uvicorn process of its own, all at the same time. In each round one client
sends each of them the same number of requests on one keep-alive connection, in turn; a server's
CPU is what the kernel has counted of its process. Shown are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
TIMEOUT = 10.0
REQUEST = b"GET /orders/17?page=2 HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\n\r\n"
BODY = b"hello"
TICKS = os.sysconf("SC_CLK_TCK")


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer each request with the same bytes."""
    if scope["type"] != "http":
        raise RuntimeError("only HTTP is served here")
    headers = [(b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


class PassThrough:
    """A middleware that does nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def _wrapped(kind: str) -> Any:
    if kind == "bare":
        return bare
    if kind == "pass-through":
        return PassThrough(bare)
    if kind == "floor":
        from overhead_rows import ROWS

        build = next(row.build for row in ROWS if row.name == "asgi.floor")
        return build()[0](bare)
    from usercontext.asgi import UserContextMiddleware

    return UserContextMiddleware(bare)


KINDS = ("bare", "pass-through", "floor", "usercontext")


def serve(kind: str, http: str, descriptor: int) -> None:
    """Serve one of the apps on a socket that is open already."""
    import uvicorn

    config = uvicorn.Config(
        _wrapped(kind),
        http=http,
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


class Server:
    """A uvicorn process, and one connection to it."""

    def __init__(self, kind: str, http: str) -> None:
        self.kind = kind
        listening = socket.create_server(("127.0.0.1", 0))
        command = [sys.executable, __file__, "--serve", kind, http, str(listening.fileno())]
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command,
            pass_fds=[listening.fileno()],
            env={**os.environ, "PYTHONPATH": path, "USERCONTEXT_DSN": "", "PYTHONHASHSEED": "0"},
        )
        address = listening.getsockname()
        listening.close()
        self._connection = socket.create_connection(address, timeout=TIMEOUT)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, requests: int) -> float:
        """Send some requests, one after the other; return microseconds of CPU of one."""
        begin = self._seconds()
        for _ in range(requests):
            self._connection.sendall(REQUEST)
            received = b""
            while not received.endswith(BODY):
                chunk = self._connection.recv(65536)
                if not chunk:
                    raise RuntimeError(f"the server of {self.kind} has closed the connection")
                received += chunk
        return (self._seconds() - begin) / requests * 1e6

    def _seconds(self) -> float:
        # The scheduler's own count, in nanoseconds; `stat` counts ticks.
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait(TIMEOUT)


def measure(http: str, rounds: int, requests: int) -> dict[str, list[float]]:
    """Return the microseconds of CPU of a request in each round, for each app."""
    servers = [Server(kind, http) for kind in KINDS]
    deadline = time.monotonic() + 300
    try:
        for server in servers:
            server.send(500)
        figures: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for server in servers:
                figures[server.kind].append(server.send(requests))
            if time.monotonic() > deadline:
                break
        return figures
    finally:
        for server in servers:
            server.close()


def main() -> int:
    """Print a table for each of uvicorn's parsers of HTTP."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        kind, http, descriptor = given.serve
        serve(kind, http, int(descriptor))
        return 0
    for http in ("h11", "httptools"):
        figures = measure(http, given.rounds, given.requests)
        for kind, rounds in figures.items():
            ratios = [one / zero for one, zero in zip(rounds, figures["bare"], strict=True)]
            more = [one - zero for one, zero in zip(rounds, figures["bare"], strict=True)]
            print(
                f"{http:10} {kind:13} {statistics.median(rounds):7.1f} us  least {min(rounds):7.1f}"
                f"  over bare {statistics.median(more):+6.1f} us"
                f"  x {statistics.median(ratios):.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
