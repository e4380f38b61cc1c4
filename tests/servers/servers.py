"""Starts real servers on a free port of this machine, and stops them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.servers.frameworks import is_from, release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.servers.frameworks import Limit

__all__ = ["SERVERS", "Running", "Server", "ServerFailedError"]

HERE = Path(__file__).parent
STARTUP = 30.0  # seconds that a server may take to answer


class ServerFailedError(RuntimeError):
    """A server ended, or did not answer in time; the message holds what it printed."""


@dataclass(frozen=True)
class Server:
    """How a server is started, and what it can do.

    Attributes:
        command: what to run, a module of Python or (`binary`) a program beside it.
        needs: the modules that must be installed.
        concurrency: requests that one process works on at once.
        processes: workers that share the port.
        lifespan: whether it tells the app when it starts and stops.
        pipelining: whether it answers requests that were sent before the answer to the first.
        early: whether it answers requests that were sent before the app returned from the last.
        write: whether `start_response` returns the `write()` that PEP 3333 asks for.
        limits: scenarios that cannot be run on it.
        rounds: requests in a row that fifty connections have an answer to in good time.
        note: what its users should know, for the support table.
    """

    name: str
    interface: str
    command: str
    needs: tuple[str, ...]
    concurrency: int = 16
    processes: int = 1
    lifespan: bool = True
    pipelining: bool = True
    early: bool = True
    write: bool = True
    limits: tuple[Limit, ...] = ()
    rounds: int = 20
    note: str = ""
    binary: bool = False

    def arguments(self, app: str, port: int) -> list[str]:
        """Return what to run so that the server serves `apps.x_app:application` on this port."""
        module = app.partition(":")[0]
        program, *rest = self.command.format(app=app, module=module, port=port).split()
        if self.binary:
            return [str(Path(sys.executable).with_name(program)), *rest]
        return [sys.executable, "-m", program, *rest]

    def missing(self) -> str | None:
        """Return why this server cannot be started here, or None."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{self.name} needs {', '.join(absent)}, not installed" if absent else None

    def version(self) -> str:
        """Return the name and the version of the installed package."""
        return release(self.needs[0])


def _uvicorn(http: str, loop: str) -> Server:
    needs = {"httptools": "httptools", "h11": "h11", "uvloop": "uvloop", "asyncio": "asyncio"}
    return Server(
        f"uvicorn-{http}-{loop}",
        "asgi",
        f"uvicorn {{app}} --host 127.0.0.1 --port {{port}} --http {http} --loop {loop}"
        " --log-level error --no-access-log",
        ("uvicorn", needs[http], needs[loop], "websockets"),
    )


def _gunicorn(
    name: str, options: str, *needs: str, interface: str = "wsgi", **more: int | bool | str
) -> Server:
    return Server(
        f"gunicorn-{name}",
        interface,
        "gunicorn {app} --bind 127.0.0.1:{port} --log-level error --graceful-timeout 1"
        f" --no-control-socket --keep-alive 10 {options}",
        ("gunicorn", *needs),
        **more,  # type: ignore[arg-type]
    )


_EARLY = (
    "gunicorn's ASGI worker, before 27.0, never answers a request that arrives before the app has"
    " returned from the last one of its connection, which Starlette's `BaseHTTPMiddleware` makes"
    " likely (https://github.com/benoitc/gunicorn/pull/3727). The tests wait until then, and"
    " pipeline nothing."
)
_GTHREAD = (
    "gunicorn's threads answer only the first of pipelined requests; the tests send the others"
    " again."
)


def _uwsgi(name: str, options: str, **more: int | bool | str) -> Server:
    return Server(
        name,
        "wsgi",
        # Without its router, uwsgi leaves clients waiting for the end of a body without a length.
        "uwsgi --http 127.0.0.1:{port} --http-keepalive --http-auto-chunked --module {app}"
        f" --post-buffering 65536 --master --die-on-term --need-app --disable-logging {options}",
        ("uwsgidecorators",),
        binary=True,
        note="uwsgi has no answer to an error that passed through the app, and needs"
        " `--post-buffering` for bodies that the app does not read.",
        **more,  # type: ignore[arg-type]
    )


SERVERS = {
    server.name: server
    for server in (
        _uvicorn("httptools", "asyncio"),
        _uvicorn("httptools", "uvloop"),
        _uvicorn("h11", "asyncio"),
        _uvicorn("h11", "uvloop"),
        Server(
            "hypercorn",
            "asgi",
            "hypercorn {app} --bind 127.0.0.1:{port} --log-level ERROR --graceful-timeout 1",
            ("hypercorn",),
        ),
        Server(
            "granian",
            "asgi",
            "granian {app} --interface asgi --host 127.0.0.1 --port {port} --log-level error"
            " --loop asyncio",
            ("granian",),
        ),
        Server(
            "daphne",
            "asgi",
            "daphne {app} --bind 127.0.0.1 --port {port} --verbosity 0",
            ("daphne",),
            lifespan=False,
            note="daphne runs no lifespan, and leaves the client of a stream that fails waiting.",
        ),
        _gunicorn(
            "asgi",
            "--worker-class asgi",
            interface="asgi",
            pipelining=is_from("gunicorn", 27),
            early=is_from("gunicorn", 27),
            note="" if is_from("gunicorn", 27) else _EARLY,
        ),
        _gunicorn(
            "uvicorn",
            "--worker-class uvicorn_worker.UvicornWorker",
            *("uvicorn_worker", "uvicorn"),
            interface="asgi",
        ),
        _gunicorn("sync", "--worker-class sync --workers 1", concurrency=1),
        _gunicorn(
            "gthread", "--worker-class gthread --threads 16", pipelining=False, note=_GTHREAD
        ),
        _gunicorn("gevent", "--worker-class gevent", "gevent"),
        _gunicorn(
            "gevent-preload",
            "--worker-class gevent --workers 2 --preload --config python:apps.gevent_first",
            "gevent",
            processes=2,
            note="With `--preload`, gunicorn patches for gevent when the app has been loaded. Let"
            " its configuration file begin with `from gevent import monkey; monkey.patch_all()`,"
            " as here: else no thread of the app comes to life in a worker, and reports are lost.",
        ),
        _gunicorn(
            "sync-preload",
            "--worker-class sync --workers 2 --preload",
            concurrency=1,
            processes=2,
        ),
        _gunicorn(
            "gthread-preload",
            "--threads 4 --workers 2 --preload",
            processes=2,
            pipelining=False,
            note=_GTHREAD,
        ),
        Server(
            "granian-wsgi",
            "wsgi",
            "granian {app} --interface wsgi --host 127.0.0.1 --port {port} --log-level error"
            " --blocking-threads 16",
            ("granian",),
            write=False,
            note="granian gives WSGI apps no `write()`: one that calls it is answered with 500.",
        ),
        Server(
            "waitress",
            "wsgi",
            "waitress --listen=127.0.0.1:{port} --threads=16 --outbuf-high-watermark=500000 {app}",
            ("waitress",),
        ),
        Server(
            "cheroot",
            "wsgi",
            "cheroot {app} --bind 127.0.0.1:{port} --threads 16",
            ("cheroot",),
            # It looks for requests on open connections twice a second.
            rounds=1,
        ),
        _uwsgi("uwsgi", "--py-call-uwsgi-fork-hooks", concurrency=1),
        _uwsgi("uwsgi-threads", "--enable-threads --threads 16 --lazy-apps"),
        # Frameworks that serve themselves.
        Server("aiohttp", "aiohttp", "{module} {port}", ("aiohttp",)),
        _gunicorn(
            "aiohttp",
            "--worker-class aiohttp.GunicornWebWorker",
            "aiohttp",
            interface="aiohttp",
        ),
        Server("django_bolt", "django_bolt", "{module} {port}", ("django_bolt",)),
        Server("robyn", "robyn", "{module} {port}", ("robyn",)),
        Server("sanic", "sanic", "{module} {port}", ("sanic",)),
        Server("tornado", "tornado", "{module} {port}", ("tornado",)),
    )
}


def _free_port() -> int:
    """Return a port that nobody has, and that no connection is given before the server is up."""
    for port in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailedError("no port is free between 10000 and 32000")


@dataclass
class Running:
    """A server in a process group of its own; leave the `with` block to end all of it."""

    server: Server
    app: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0

    def __enter__(self) -> Self:
        """Start the server, and wait until it answers as the process started here."""
        self.port = _free_port()
        self._output = self.folder / "output"
        self._token = secrets.token_hex(8)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self.server.arguments(self.app, self.port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def output(self) -> str:
        """What the server has printed so far."""
        return self._output.read_text(errors="replace")

    def _environment(self) -> dict[str, str]:
        # Relative ones mean nothing in the folder that the server runs in.
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [str(HERE), *(str(Path(path).resolve()) for path in inherited if path)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONWARNINGS": "ignore",
            "TMPDIR": str(self.folder),
            "SERVER_TOKEN": self._token,
            **self.environment,
        }

    def _wait(self) -> None:
        """Connect until the app answers; waiting for the process' end is the pause between."""
        for _ in range(int(STARTUP / 0.02)):
            if self._answers():
                return
            try:
                status = self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise ServerFailedError(f"{self.server.name} ended with {status}:\n{self.output}")
        raise ServerFailedError(f"{self.server.name} did not answer:\n{self.output}")

    def _answers(self) -> bool:
        """Return whether what listens is the server started here, not another's on its port."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"GET /whoami HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return False
        return self._token.encode() in answer

    def _end(self) -> None:
        """End the server's whole group: politely for a second, then surely."""
        for politeness in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, politeness)
            except ProcessLookupError:
                break
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait(5)
