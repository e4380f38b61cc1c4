"""What capturing an exception of ten frames costs the thread that captures it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from overhead_tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main", "measure"]

CLIENTS = ("usercontext", "usercontext in a request", "sentry-sdk")
BURSTS = 30
BURST = 20
TARGET = 60.0  # microseconds, on the machine where sentry-sdk took ...
SENTRY = 546.0


def measure(environment: dict[str, str]) -> Table:
    """Capture with ours and sentry-sdk in turn, sending to a local server that takes everything."""
    table = Table(["capture, 10 frames, no locals", "best us", "median us"])
    best: dict[str, float] = {}
    with _Sink() as dsn:
        for client in CLIENTS:
            done = subprocess.run(
                [sys.executable, __file__, client, dsn],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                table.lines.append(
                    [client, "-", f"skipped: {done.stderr.strip().splitlines()[-1]}"]
                )
                continue
            spent = sorted(json.loads(done.stdout))
            best[client] = spent[0]
            table.lines.append([client, f"{spent[0]:.1f}", f"{spent[len(spent) // 2]:.1f}"])
    for client in CLIENTS[:2]:
        if client in best:
            table.check(f"capture: {client}, us in the caller", best[client], TARGET, ".1f")
        if client in best and CLIENTS[2] in best:
            ratio = best[client] / best[CLIENTS[2]]
            table.check(f"capture: {client} / sentry-sdk, time", ratio, TARGET / SENTRY, ".2f")
    return table


class _Sink:
    """A local server that answers every envelope with 200, in this process."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Accepting)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://{'0' * 32}@127.0.0.1:{self._server.server_port}/1"

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Accepting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the envelope and accept it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while (size := int(self.rfile.readline(), 16)) > 0:
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def _raise(depth: int) -> None:
    if depth == 0:
        raise ValueError("the tenth frame")
    _raise(depth - 1)


def _timed_burst(capture: Callable[[], object]) -> list[float]:
    spent = []
    for _ in range(BURST):
        try:
            _raise(8)
        except ValueError:
            begin = time.perf_counter_ns()
            capture()
            spent.append((time.perf_counter_ns() - begin) / 1000)
    return spent


def _bursts(capture: Callable[[], object], flush: Callable[[], object]) -> list[float]:
    """Capture in bursts that fit the queue, the sender idle at each burst's beginning."""
    spent: list[float] = []
    for _ in range(BURSTS):
        spent += _timed_burst(capture)
        flush()
    return spent[BURST:]  # the first burst reads source files


def _usercontext(dsn: str) -> list[float]:
    import usercontext

    usercontext.init(dsn)
    return _bursts(usercontext.capture_exception, lambda: usercontext.flush(10))


def _usercontext_in_a_request(dsn: str) -> list[float]:
    from overhead_rows import environ

    import usercontext
    from usercontext.wsgi import UserContextMiddleware

    usercontext.init(dsn)
    spent: list[float] = []

    def app(_environ: Any, _start_response: Any) -> list[bytes]:
        usercontext.set_user({"id": "42", "username": "ada", "email": "ada@shop.example"})
        spent.extend(_bursts(usercontext.capture_exception, lambda: usercontext.flush(10)))
        return []

    UserContextMiddleware(app)(environ(), lambda *_: None)  # type: ignore[arg-type,return-value]
    return spent


def _sentry_sdk(dsn: str) -> list[float]:
    import sentry_sdk

    sentry_sdk.init(dsn, include_local_variables=False)
    return _bursts(sentry_sdk.capture_exception, lambda: sentry_sdk.flush(10))


def main(client: str, dsn: str) -> int:
    """Print the microseconds of every capture, as JSON."""
    captures = {
        "usercontext": _usercontext,
        "usercontext in a request": _usercontext_in_a_request,
        "sentry-sdk": _sentry_sdk,
    }
    try:
        print(json.dumps(captures[client](dsn)))
    except ImportError as error:
        print(f"{error.name} is not installed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
