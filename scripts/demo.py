"""Show on real servers that every report names its own user, and no other.

Starts the FastAPI example on uvicorn and the Flask example on gunicorn. Both keep their reports in
one SQLite file. Sends them the interleaved requests of several customers and of nobody, as a
reverse proxy would: few kept-alive connections, each of them used by everybody in turn. Then reads
the reports back, and holds each against the customer who made the request.

    sh scripts/demo                                    # makes what it needs
    python scripts/demo.py --port-fastapi 8000         # where everything is installed
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0  # seconds that a server may take to start, and reports to arrive
CONNECTIONS = 3  # for each server
LARGE_BODY = b"x" * 200_000

#: Whose requests come from where; nobody's too.
ADDRESSES = {
    "ada": "203.0.113.7",
    "bob": "203.0.113.60",
    "cleo": "2001:db8::c1e0",
    "dan": "198.51.100.4",
    "admin": "192.0.2.9",
    None: "198.51.100.200",
}
CUSTOMERS = ("ada", "bob", "cleo", "dan")


class DemoError(Exception):
    """The demonstration cannot run; the text says why, and what to do."""


# --- what is asked ----------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One request, and whom its report must name; `number` is the order it asks for."""

    server: str
    what: str
    method: str
    path: str
    number: int
    sender: str | None
    expected: str | None
    fails: bool = True
    body: bytes = b""
    forged: bool = False
    connection: int = 0

    @property
    def address(self) -> str:
        """Return the address that the sender's requests come from."""
        return ADDRESSES[self.sender]

    @property
    def forwarded_for(self) -> str:
        """Return what the proxy writes: what the client claims, then what the proxy saw."""
        return f"6.6.6.6, {self.address}" if self.forged else self.address


class Plan:
    """Numbers the requests, and deals them out to connections."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 1000

    def conversations(self, server: str, requests: int) -> list[list[Request]]:
        """Return the requests of each connection, in order."""
        conversations: list[list[Request]] = [[] for _ in range(CONNECTIONS)]
        turn = 0
        while sum(map(len, conversations)) < requests:
            conversation = conversations[turn % CONNECTIONS]
            for request in self._next(server, turn):
                request.connection = turn % CONNECTIONS + 1
                conversation.append(request)
            turn += 1
        return conversations

    def _next(self, server: str, turn: int) -> list[Request]:
        customer = self._random.choice(CUSTOMERS)
        kinds = [
            self._endpoint,
            self._large_body_then_nobody,
            self._background,
            self._stream,
            self._impersonation,
            self._success_then_nobody,
        ]
        # Each connection meets every kind: a round of them begins one further than the last did.
        return kinds[(turn + turn // len(kinds)) % len(kinds)](server, customer)

    def _request(
        self, server: str, what: str, path: str, sender: str | None, **more: Any
    ) -> Request:
        self._number += 1
        number = self._number if more.get("fails", True) else 1
        return Request(
            server=server,
            what=what,
            method=more.pop("method", "GET"),
            path=path.format(number=number),
            number=number,
            sender=sender,
            expected=more.pop("expected", sender),
            **more,
        )

    def _endpoint(self, server: str, customer: str) -> list[Request]:
        threads = server == "fastapi" and self._random.random() < 0.5
        path, what = ("/stock/{number}", "thread") if threads else ("/orders/{number}", "endpoint")
        return [self._request(server, what, path, customer, forged=self._random.random() < 0.5)]

    def _large_body_then_nobody(self, server: str, customer: str) -> list[Request]:
        path = "/orders/{number}/photo"
        body = {"method": "POST", "body": LARGE_BODY}
        return [
            self._request(server, "200 kB body", path, customer, **body),
            self._request(server, "after it, nobody", "/orders/{number}", None),
        ]

    def _background(self, server: str, customer: str) -> list[Request]:
        path = "/orders/{number}/invoice"
        return [self._request(server, "background task", path, customer, method="POST")]

    def _stream(self, server: str, customer: str) -> list[Request]:
        return [self._request(server, "stream", "/orders/{number}/export", customer)]

    def _impersonation(self, server: str, customer: str) -> list[Request]:
        path = f"/as/{customer}/orders/{{number}}"
        return [self._request(server, "admin as customer", path, "admin", expected=customer)]

    def _success_then_nobody(self, server: str, customer: str) -> list[Request]:
        return [
            self._request(server, "endpoint", "/orders/{number}", customer, fails=False),
            self._request(server, "endpoint", "/orders/{number}", None, forged=True),
        ]


# --- the servers ------------------------------------------------------------------------------


@dataclass(slots=True)
class Server:
    """A server process, and where it writes what it says."""

    name: str
    port: int
    log: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, environment: dict[str, str], folder: Path) -> None:
        """Start the process in a group of its own, so that its children end with it."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_it_answers(self) -> None:
        """Wait for the port to accept; say what the server said if it ends instead."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise DemoError(f"the {self.name} example did not start:\n{self._last_words()}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise DemoError(f"the {self.name} example did not answer in time:\n{self._last_words()}")

    def stop(self) -> None:
        """End the process and its children, gently at first."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join("    " + line for line in lines[-12:]) or "    (it said nothing)"


def _servers(options: argparse.Namespace, folder: Path) -> list[Server]:
    ports = {
        "fastapi": _port(options.port_fastapi, "FastAPI", "--port-fastapi"),
        "flask": _port(options.port_flask, "Flask", "--port-flask"),
    }
    if ports["fastapi"] == ports["flask"]:
        raise DemoError("both examples cannot have one port: change --port-fastapi or --port-flask")
    examples = ROOT / "examples"
    # Ours reads the forwarded address; connections stay open, however slow this machine is; and
    # asyncio's own loop copies a request's context into the next after a large body.
    uvicorn = ["uvicorn", "app:app", "--app-dir", str(examples / "fastapi")]
    uvicorn += ["--no-proxy-headers", "--loop=asyncio", "--timeout-keep-alive=60"]
    gunicorn = ["gunicorn", "app:app", "--chdir", str(examples / "flask")]
    gunicorn += ["--threads=4", "--keep-alive=60"]
    return [
        Server(
            "fastapi",
            ports["fastapi"],
            folder / "uvicorn.log",
            [sys.executable, "-m", *uvicorn, f"--port={ports['fastapi']}"],
        ),
        Server(
            "flask",
            ports["flask"],
            folder / "gunicorn.log",
            [sys.executable, "-m", *gunicorn, f"--bind=127.0.0.1:{ports['flask']}"],
        ),
    ]


def _port(wanted: int | None, name: str, option: str) -> int:
    """Return the port that is wanted, if it is free, or any free one.

    That is one which no connection is given before the server is up.
    """
    tried = [wanted] if wanted else random.SystemRandom().sample(range(10_000, 32_000), 100)
    reason: str | None = None
    for port in tried:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                reason = error.strerror
            else:
                return port
    raise DemoError(
        f"port {wanted or 'from 10000 to 32000'} is not free for the {name} example ({reason}): "
        f"choose another with {option}" + (f", or leave {option} out" if wanted else "")
    )


@contextlib.contextmanager
def _running(
    servers: Sequence[Server], environment: dict[str, str], folder: Path
) -> Iterator[None]:
    try:
        for server in servers:
            server.start(environment, folder)
        for server in servers:
            server.wait_until_it_answers()
        yield
    finally:
        for server in servers:
            server.stop()


# --- the requests -----------------------------------------------------------------------------


async def _converse(
    urls: dict[str, str], conversations: list[list[Request]], screen: Screen
) -> None:
    """Send the requests of every connection, all connections at once."""
    import httpx

    async with httpx.AsyncClient() as client:
        credentials = {
            server: {
                name: await _log_in(client, server, url, name) for name in (*CUSTOMERS, "admin")
            }
            for server, url in urls.items()
        }
    total = sum(map(len, conversations))
    done = 0

    async def hold(conversation: list[Request]) -> None:
        nonlocal done
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(limits=limits, timeout=PATIENCE) as connection:
            for request in conversation:
                url = urls[request.server]
                await _send(connection, url, request, credentials[request.server])
                done += 1
                screen.progress("sending requests", done, total)

    try:
        await asyncio.gather(*map(hold, conversations))
    except httpx.HTTPError as error:
        raise DemoError(f"a server did not answer a request: {error!r}") from error


async def _log_in(
    client: httpx.AsyncClient, server: str, url: str, username: str
) -> dict[str, str]:
    """Return the headers that tell who sends a request."""
    credentials = {"username": username}
    if server == "fastapi":
        answer = await client.post(f"{url}/login", json=credentials)
        return {"authorization": f"Bearer {answer.json()['token']}"}
    client.cookies.clear()
    answer = await client.post(f"{url}/login", data=credentials)
    return {"cookie": f"session={answer.cookies['session']}"}


async def _send(
    connection: httpx.AsyncClient,
    url: str,
    request: Request,
    credentials: dict[str, dict[str, str]],
) -> None:
    import httpx

    headers = {"x-forwarded-for": request.forwarded_for}
    if request.sender is not None:
        headers |= credentials[request.sender]
    connection.cookies.clear()  # the connection is shared, the cookies are not
    message = connection.build_request(
        request.method, url + request.path, headers=headers, content=request.body or None
    )
    try:
        await connection.send(message)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        # uvicorn closes a connection after an error that nothing handled; a request that meets
        # the closing was never read. Proxies send it again too.
        await connection.send(message)


# --- the reports ------------------------------------------------------------------------------


@dataclass(slots=True)
class Finding:
    """A request, and what was reported of it."""

    request: Request
    reported: str
    address: str
    right: bool


def _number_of(report: dict[str, Any]) -> int | None:
    """Return the order whose missing price was reported: it stands in the error's text."""
    try:
        return int(report["exception"]["values"][-1]["value"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _hold_against(requests: list[Request], reports: list[dict[str, Any]]) -> list[Finding]:
    by_number: dict[int | None, list[dict[str, Any]]] = {}
    for report in reports:
        by_number.setdefault(_number_of(report), []).append(report)
    return [_find(request, by_number.pop(request.number, [])) for request in requests] + [
        Finding(_STRANGER, _name(report), _address(report), right=False)
        for strangers in by_number.values()
        for report in strangers
    ]


_STRANGER = Request("?", "a report that no request explains", "", "", 0, None, None)


def _find(request: Request, reports: list[dict[str, Any]]) -> Finding:
    if len(reports) != 1:
        return Finding(request, f"{len(reports)} reports", "-", right=False)
    name, address = _name(reports[0]), _address(reports[0])
    right = name == (request.expected or "nobody") and address == request.address
    return Finding(request, name, address, right)


def _name(report: dict[str, Any]) -> str:
    user = report.get("user") or {}
    return str(user.get("username") or user.get("id") or "nobody")


def _address(report: dict[str, Any]) -> str:
    return str((report.get("user") or {}).get("ip_address", "-"))


def _wait_for_reports(path: Path, expected: int, screen: Screen) -> None:
    from usercontext.sentry import read_reports

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        arrived = sum(1 for _ in read_reports(path)) if path.exists() else 0
        screen.progress("reports in the store", arrived, expected)
        if arrived >= expected:
            return
        time.sleep(0.1)


# --- what is seen -----------------------------------------------------------------------------


class Screen:
    """Writes to a terminal with colours and a progress line, to anything else plain text."""

    def __init__(self) -> None:
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = is_terminal and not os.environ.get("NO_COLOR")
        self._moves = is_terminal

    def paint(self, text: str, *codes: int) -> str:
        """Return the text in a colour, where colours are shown."""
        if not self._colours:
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    def progress(self, what: str, done: int, total: int) -> None:
        """Draw how far something has come, on the line that is erased later."""
        if not self._moves:
            return
        filled = 24 * done // max(total, 1)
        bar = self.paint("━" * filled, 36) + self.paint("━" * (24 - filled), 90)
        sys.stdout.write(f"\r\x1b[2K  {bar} {done}/{total} {what}")
        sys.stdout.flush()

    def say(self, text: str = "") -> None:
        """Write a line, in the place of the progress line."""
        if self._moves:
            sys.stdout.write("\r\x1b[2K")
        print(text, flush=True)

    def table(self, findings: list[Finding]) -> None:
        """Print one line for each request that must be reported."""
        header = ("server", "line", "request", "what happened", "expected", "reported", "address")
        rows = [
            (
                finding.request.server,
                str(finding.request.connection),
                f"{finding.request.method} {finding.request.path}".strip(),
                finding.request.what + (" (forged address)" if finding.request.forged else ""),
                finding.request.expected or "nobody",
                finding.reported,
                finding.address,
            )
            for finding in findings
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        self.say("  " + self.paint(_columns(header, widths), 1))
        for finding, row in zip(findings, rows, strict=True):
            mark = self.paint("ok", 32) if finding.right else self.paint("WRONG", 31, 1)
            line = _columns(row, widths)
            if not finding.right:
                line = self.paint(line, 31)
            elif finding.request.expected is None:
                line = self.paint(line, 90)
            self.say(f"  {line}  {mark}")


def _columns(cells: Sequence[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


# --- the whole --------------------------------------------------------------------------------


def _number_option(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return parse


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo", description="Show on real servers that every report names its own user."
    )
    port = _number_option(1, 65535)
    free = "a free one if left out"
    parser.add_argument("--port-fastapi", type=port, metavar="PORT", help=free)
    parser.add_argument("--port-flask", type=port, metavar="PORT", help=free)
    parser.add_argument(
        "--requests",
        type=_number_option(1, 100_000),
        default=24,
        metavar="N",
        help="how many each server is sent at least (24)",
    )
    parser.add_argument("--seed", type=int, default=1, help="another order of customers (1)")
    return parser.parse_args(argv)


def _demonstrate(options: argparse.Namespace, folder: Path, screen: Screen) -> int:
    reports_path = folder / "reports.db"
    servers = _servers(options, folder)
    plan = Plan(options.seed)
    conversations = [
        conversation
        for server in servers
        for conversation in plan.conversations(server.name, options.requests)
    ]
    requests = [request for conversation in conversations for request in conversation]
    reported = [request for request in requests if request.fails]
    environment = {**os.environ, "USERCONTEXT_DSN": f"sqlite:///{reports_path}"}
    screen.say("usercontext: every report names its own user, and no other\n")
    screen.progress("starting uvicorn and gunicorn", 0, 1)
    with _running(servers, environment, folder):
        for server in servers:
            screen.say(f"  {server.name:8} on {Path(server.command[2]).name} at {server.url}")
        asyncio.run(
            _converse({server.name: server.url for server in servers}, conversations, screen)
        )
        _wait_for_reports(reports_path, len(reported), screen)
    return _conclude(requests, reported, reports_path, screen)


def _conclude(
    requests: list[Request], expected: list[Request], reports_path: Path, screen: Screen
) -> int:
    from usercontext.sentry import read_reports

    reports = list(read_reports(reports_path)) if reports_path.exists() else []
    findings = _hold_against(expected, reports)
    wrong = sum(not finding.right for finding in findings)
    lines = {(request.server, request.connection) for request in requests}
    screen.say(f"  {len(requests)} requests over {len(lines)} kept-alive connections\n")
    screen.table(findings)
    screen.say(f"\n  look at them:  {_command()} inspect {reports_path}")
    closing = f"{len(reports)} reports, {wrong} mismatches"
    screen.say("\n" + screen.paint(closing, 31 if wrong else 32, 1))
    return 1 if wrong else 0


def _command() -> str:
    """Return the command of this environment, which is on no path where tox has made it."""
    own = Path(sys.executable).with_name("usercontext")
    return str(own) if own.exists() and shutil.which("usercontext") is None else "usercontext"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give a new folder, of which the reports alone are kept, for whoever wants to see them."""
    folder = Path(tempfile.mkdtemp(prefix="usercontext-demo-"))
    try:
        yield folder
    finally:
        kept = folder / "reports.db"
        for path in folder.iterdir():
            if not path.name.startswith(kept.name):
                path.unlink()
        if not kept.exists():
            folder.rmdir()


def _end_properly(_number: int, _frame: object) -> None:
    """End as control-C does, which asyncio knows how to do; the servers are stopped then."""
    signal.raise_signal(signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 if every report names its user, 1 if not, 2 if it cannot."""
    options = _arguments(argv)
    screen = Screen()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
    signal.signal(signal.SIGTERM, _end_properly)
    signal.signal(signal.SIGHUP, _end_properly)
    try:
        with _folder() as folder:
            return _demonstrate(options, folder, screen)
    except ImportError as error:
        print(f"demo: {error.name} is not installed: run `sh scripts/demo`", file=sys.stderr)
    except DemoError as error:
        screen.say()
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        screen.say()
        print("demo: stopped, and both servers with it", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
