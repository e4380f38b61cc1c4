"""Send many requests of 50 users and of nobody at once; count who was taken for someone else.

    python benchmarks/soak.py                                       # 200,000 requests a server
    python benchmarks/soak.py --requests 5000 --servers uvicorn,waitress
    python benchmarks/soak.py --threads                             # four racing threads a request

A third of the requests name their user to the resolver, a third set one in the endpoint, a third
are anonymous. Some are pipelined where the server can, some carry a body of 200 kB with anonymous
requests right behind them, some fail and are reported. Every answer is checked, every report that
the failing ones left in SQLite, and that nobody stays behind in the server's own context. Exit
status 1 if any user was wrong or missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import signal
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.soak_threads import race  # noqa: E402
from tests.servers.driver import Asked, Connection  # noqa: E402
from tests.servers.servers import SERVERS, Running, Server  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

USERS = [f"user-{number:02}" for number in range(50)]
SHORT_NAMES = {"uvicorn": "uvicorn-httptools-asyncio"}
DEFAULT_SERVERS = "uvicorn,hypercorn,granian,gunicorn-sync,gunicorn-gthread,waitress"
LARGE = b"x" * 200_000
NOBODY = "-"
MAX_RETRIES = 20
PROGRESS_EVERY = 25_000

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LEAKED = re.compile(rb"\r\nx-leaked: *([^\r]*)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it goes over the wire, and whom the app must see."""

    number: int
    expected: str
    fails: bool
    encoded: bytes


@dataclass
class Tally:
    """What came of one server's requests."""

    server: str
    version: str
    requests: int = 0
    reports: int = 0
    wrong: int = 0
    missing: int = 0
    seconds: float = 0.0
    failing: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def compare(self, what: str, expected: str, seen: str) -> None:
        """Count a user who is not the expected one: nobody is missing, anybody else wrong."""
        if seen == expected:
            return
        if seen == NOBODY:
            self.missing += 1
        else:
            self.wrong += 1
        if len(self.examples) < 5:
            self.examples.append(f"{what}: expected {expected}, saw {seen}")

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0


class Plan:
    """The requests to send, in batches: those of a batch go out at once, pipelined."""

    def __init__(self, requests: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._left = requests
        self._number = 0

    def batches(self) -> Iterator[list[Request]]:
        """Yield batches until all requests are made."""
        while self._left > 0:
            batch = self._batch()[: self._left]
            self._left -= len(batch)
            yield batch

    def _batch(self) -> list[Request]:
        chance = self._random.random()
        if chance < 0.005:
            return [self._request("user", LARGE), self._request("nobody"), self._request("nobody")]
        if chance < 0.05:
            return [self._request("any") for _ in range(self._random.randint(2, 6))]
        if chance < 0.07:
            return [self._request("any", fails=True)]
        return [self._request("any")]

    def _request(self, kind: str, body: bytes = b"", *, fails: bool = False) -> Request:
        self._number += 1
        user, headers = NOBODY, {}
        ways = {"user": 2, "nobody": 0, "any": 3}[kind]
        way = self._random.randrange(ways) if ways else 2
        if way < 2:
            user = self._random.choice(USERS)
            headers[("x-user", "x-set")[way]] = user
        if fails:
            headers["x-fail"] = str(self._number)
        asked = Asked("/whoami", headers, body, "POST" if body else "GET")
        return Request(self._number, user, fails, asked.encoded())


class Client(asyncio.Protocol):
    """One of the connections: sends a batch, checks its answers, takes the next batch."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request] = deque()
        self._buffer = bytearray()
        self._retries = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what is left of a batch that an earlier connection began, or the next one."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer.clear()
        self._closing = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Check the answers that are complete."""
        self._buffer += data
        while self._waiting and not self._closing and self._take_answer():
            self._retries = 0
            if not self._closing and not (self._waiting and self._load.pipelining):
                self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """Connect again: some servers end a connection after a request, or after an error."""
        self._transport = None
        if not self._waiting and not self._next_batch():
            self._load.client_is_done()
            return
        self._retries += 1
        if self._retries > MAX_RETRIES:
            self._load.fail(ConnectionError(f"a request failed {MAX_RETRIES} times: {error}"))
            return
        self._load.connect(self)

    def _next_batch(self) -> bool:
        self._waiting.extend(next(self._load.batches, ()))
        return bool(self._waiting)

    def _go_on(self) -> None:
        assert self._transport is not None
        if not self._waiting and not self._next_batch():
            self._closing = True
            self._transport.close()
            return
        at_once = list(self._waiting) if self._load.pipelining else [self._waiting[0]]
        self._transport.write(b"".join(request.encoded for request in at_once))

    def _take_answer(self) -> bool:
        """Check one answer; return False while it is not complete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end])
        length = _LENGTH.search(head)
        if length is None:
            self._load.fail(ValueError(f"an answer without a length: {head!r}"))
            return False
        whole = end + 4 + int(length[1])
        if len(self._buffer) < whole:
            return False
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        if leaked := _LEAKED.search(head):
            self._load.leaked(leaked[1].decode())
        self._load.answered(self._waiting.popleft(), int(head[9:12]), body)
        if _CLOSES.search(head):
            assert self._transport is not None
            self._closing = True
            self._transport.close()
        return True


class Load:
    """All connections to one server, until the plan is done."""

    def __init__(
        self, port: int, plan: Plan, tally: Tally, *, connections: int, pipelining: bool
    ) -> None:
        self.pipelining = pipelining
        self._port = port
        self._tally = tally
        self.batches = plan.batches()
        self._open = connections
        self._connections = connections
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send everything."""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for _ in range(self._connections):
            self.connect(Client(self))
        await self._over

    def connect(self, client: Client) -> None:
        """Open a client's next connection."""
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: client, "127.0.0.1", self._port)
        except OSError as error:
            self.fail(error)

    def client_is_done(self) -> None:
        """Note that a connection has nothing left to send."""
        self._open -= 1
        if not self._open and not self._over.done():
            self._over.set_result(None)

    def fail(self, error: Exception) -> None:
        """End the run: what went wrong is neither ours nor the app's answer."""
        if not self._over.done():
            self._over.set_exception(error)

    def leaked(self, user: str) -> None:
        """Count a user whom an earlier request left behind in the server."""
        self._tally.compare("the server's context", NOBODY, user)

    def answered(self, request: Request, status: int, body: bytes) -> None:
        """Check an answer, or note what its report must say."""
        tally = self._tally
        tally.requests += 1
        if tally.requests % PROGRESS_EVERY == 0:
            print(f"{tally.server}: {tally.requests:,} requests", file=sys.stderr, flush=True)
        if request.fails and status == 500:
            tally.failing[str(request.number)] = request.expected
        elif request.fails or status != 200:
            self.fail(ValueError(f"request {request.number} was answered with {status}: {body!r}"))
        else:
            tally.compare(f"request {request.number}", request.expected, body.decode())


def check_reports(path: Path, tally: Tally) -> None:
    """Compare the user in each failing request's report with the one it was made for."""
    from usercontext.sentry import read_reports

    expected = dict(tally.failing)
    for report in read_reports(path):
        number = report["exception"]["values"][-1]["value"]
        tally.reports += 1
        user = report.get("user") or {}
        tally.compare(f"report {number}", expected.pop(number, "no report"), user.get("id", NOBODY))
    for number, user in expected.items():
        tally.missing += 1
        tally.examples.append(f"request {number} of {user} was not reported")


def soak(server: Server, requests: int, connections: int, timeout: float, seed: int) -> Tally:
    """Put one server under load; return what came of it."""
    tally = Tally(server.name, server.version())
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        reports = Path(folder, "reports.db")
        environment = {
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
            "REPORTS": f"sqlite:///{reports}",
            "INTERFACE": server.interface,
        }
        with Running(server, "soak_apps:application", Path(folder), environment) as running:
            load = Load(
                running.port,
                Plan(requests, seed),
                tally,
                connections=connections,
                pipelining=server.pipelining,
            )
            start = time.monotonic()
            asyncio.run(asyncio.wait_for(load.run(), timeout))
            tally.seconds = time.monotonic() - start
            with Connection(running.port) as connection:
                answer = connection.request(Asked("/flush", {}))
            if answer.body != b"True":
                raise RuntimeError("the reports were not kept within a minute")
            check_reports(reports, tally)
    return tally


def print_head() -> None:
    """Print the head of the table, in Markdown as it stands in README.md."""
    print("| server | version | requests | reports checked | wrong | missing | requests/s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)


def print_row(tally: Tally) -> None:
    """Print what came of one server's requests."""
    print(
        f"| {tally.server} | {tally.version} | {tally.requests:,} | {tally.reports:,} "
        f"| {tally.wrong:,} | {tally.missing:,} | {tally.rate:,.0f} |",
        flush=True,
    )


def _server_named(name: str) -> Server:
    name = SHORT_NAMES.get(name, name)
    if name not in SERVERS:
        known = ", ".join([*SHORT_NAMES, *SERVERS])
        raise argparse.ArgumentTypeError(f"there is no server {name!r}; there are {known}")
    server = SERVERS[name]
    if reason := server.missing():
        raise argparse.ArgumentTypeError(reason)
    if server.processes > 1:
        raise argparse.ArgumentTypeError(f"{name} has several processes, of which one would flush")
    return server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, help="requests to each server; 200,000")
    parser.add_argument("--connections", type=int, default=32, help="connections at once")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for each server")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same requests")
    parser.add_argument(
        "--servers",
        type=lambda names: [_server_named(name) for name in names.split(",")],
        help=f"names separated by commas; by default {DEFAULT_SERVERS}",
    )
    parser.add_argument(
        "--threads",
        action="store_true",
        help="race four threads in each of 100,000 requests instead, without a server",
    )
    arguments = parser.parse_args()
    if arguments.requests is None:
        arguments.requests = 100_000 if arguments.threads else 200_000
    return arguments


def _race(requests: int) -> int:
    """Run the race of threads; return the exit status."""
    outcome = race(requests)
    print(
        f"{platform.python_version()}: {outcome.requests:,} requests of four threads in "
        f"{outcome.seconds:.0f} s: {outcome.wrong} wrong, {outcome.lost} lost, "
        f"{outcome.undone} undone, {outcome.unsent} unsent"
    )
    return 0 if outcome.is_clean else 1


def main() -> int:
    """Run the soak; return the exit status."""
    # Ended from outside, it still ends the server that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _arguments()
    if arguments.threads:
        return _race(arguments.requests)
    faults = 0
    print_head()
    servers = arguments.servers or [_server_named(name) for name in DEFAULT_SERVERS.split(",")]
    for server in servers:
        tally = soak(
            server,
            arguments.requests,
            arguments.connections,
            arguments.timeout,
            arguments.seed,
        )
        faults += tally.wrong + tally.missing
        print_row(tally)
        for example in tally.examples:
            print(f"{tally.server}: {example}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
