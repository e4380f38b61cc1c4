"""ASGI servers told to end while reports wait: what is still sent, and what an outbox is for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.sentry.test_processes import ask, free_port, sent
from usercontext.sentry import read_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.sentry.server import SentryServer

APP = """
import os
import usercontext
from usercontext.asgi import UserContextMiddleware

usercontext.init(os.environ["DSN"], shutdown_timeout=10.0, **eval(os.environ["OPTIONS"]))

async def with_lifespan(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        open("ending", "w").close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await without_lifespan(scope, receive, send)

async def without_lifespan(scope, receive, send):
    assert scope["type"] == "http"
    usercontext.capture_message("served")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

with_lifespan = UserContextMiddleware(with_lifespan)
without_lifespan = UserContextMiddleware(without_lifespan)
"""
UVICORN = ("uvicorn", "--port", "{port}")
HYPERCORN = ("hypercorn", "--bind", "127.0.0.1:{port}")


def end(
    server: SentryServer,
    directory: Path,
    command: tuple[str, ...],
    tell: Callable[[subprocess.Popen[bytes]], object],
    *,
    app: str = "with_lifespan",
    answering: bool = True,
    **options: object,
) -> int:
    """Have a server serve three requests, and tell it to end; return its exit code.

    Sentry answers no report before that server is about to end, or even later.
    """
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (directory / "app.py").write_text(APP)
    port = free_port()
    server.answering.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(port=port) for part in command), f"app:{app}"],
        cwd=directory,
        env={**os.environ, "DSN": server.dsn, "OPTIONS": repr(options)},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(3):
            assert ask(port) == b"ok"
        assert server.arrived.acquire(timeout=20)  # the first one; the others wait
        tell(process)
        wait_for_end(port, directory)
        if answering:
            with pytest.raises(subprocess.TimeoutExpired):  # it waits for Sentry
                process.wait(0.5)
            server.answering.set()
        return process.wait(30)
    finally:
        process.kill()
        process.wait()


def wait_for_end(port: int, directory: Path) -> None:
    """Wait until a server ends the lifespan, or takes no more connections."""
    deadline = time.monotonic() + 30
    while not (directory / "ending").exists():
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except ConnectionRefusedError:
            return
        except TimeoutError:
            pass
        threading.Event().wait(0.02)


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Do what a process manager does."""
    process.send_signal(signal.SIGTERM)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Do what Ctrl-C does."""
    process.send_signal(signal.SIGINT)


def interrupt_twice(process: subprocess.Popen[bytes]) -> None:
    """Do what who does not want to wait does."""
    interrupt(process)
    interrupt(process)


WITHOUT_LIFESPAN = {
    "not supported": (UVICORN, "without_lifespan"),
    "off": ((*UVICORN, "--lifespan", "off"), "with_lifespan"),
}


ENDS = [
    pytest.param(UVICORN, terminate, id="uvicorn-SIGTERM"),
    pytest.param(UVICORN, interrupt, id="uvicorn-Ctrl-C"),
    pytest.param(HYPERCORN, terminate, id="hypercorn-SIGTERM"),
    pytest.param(HYPERCORN, interrupt, id="hypercorn-Ctrl-C"),
]


@pytest.mark.parametrize(("command", "tell"), ENDS)
def test_end_of_the_lifespan(
    server: SentryServer, tmp_path: Path, command: tuple[str, ...], tell: Callable[..., object]
) -> None:
    """What waits when an app with a lifespan is told to end is sent."""
    end(server, tmp_path, command, tell)

    assert sent(server) == ["served"] * 3


@pytest.mark.parametrize(("command", "app"), WITHOUT_LIFESPAN.values(), ids=WITHOUT_LIFESPAN)
@pytest.mark.parametrize("tell", [interrupt, interrupt_twice])
def test_exit_without_a_lifespan(
    server: SentryServer,
    tmp_path: Path,
    command: tuple[str, ...],
    app: str,
    tell: Callable[..., object],
) -> None:
    """Without a lifespan it is sent at exit, when uvicorn is interrupted."""
    end(server, tmp_path, command, tell, app=app)

    assert sent(server) == ["served"] * 3


def test_forced_exit(server: SentryServer, tmp_path: Path) -> None:
    """So it is where uvicorn is interrupted twice, which skips the lifespan's end."""
    end(server, tmp_path, UVICORN, interrupt_twice)

    assert sent(server) == ["served"] * 3


@pytest.mark.parametrize(("command", "app"), WITHOUT_LIFESPAN.values(), ids=WITHOUT_LIFESPAN)
def test_killed_without_a_lifespan(
    server: SentryServer, tmp_path: Path, command: tuple[str, ...], app: str
) -> None:
    """Told to end by a signal, uvicorn ends by it, without exit handlers: an outbox keeps all."""
    path = tmp_path / "outbox.db"
    code = end(server, tmp_path, command, terminate, app=app, answering=False, outbox=str(path))

    assert code == -signal.SIGTERM
    assert len(list(read_reports(path))) == 3


HANGS = """
import os, threading
import usercontext
from usercontext.wsgi import UserContextMiddleware

usercontext.init(os.environ["DSN"])

def in_the_call(environ, start_response):
    threading.Event().wait(60)

def in_the_body(environ, start_response):
    start_response("200 OK", [])
    yield b"o"
    threading.Event().wait(60)

in_the_call, in_the_body = (
    UserContextMiddleware(app, resolver=lambda request: {"id": 1})
    for app in (in_the_call, in_the_body)
)
"""


@contextmanager
def started(
    command: tuple[str, ...], directory: Path, dsn: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=directory,
        env={**os.environ, "DSN": dsn},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        terminate(process)
        process.wait(30)


def ask_once(port: int) -> None:
    """Send one request to a server that is about to start, and read what there is of an answer."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with suppress(OSError):
                while one.recv(1024):
                    pass
            return
        threading.Event().wait(0.05)


@pytest.mark.parametrize("app", ["in_the_call", "in_the_body"])
def test_time_out_of_a_worker(server: SentryServer, tmp_path: Path, app: str) -> None:
    """A request for which gunicorn ends its worker is reported, with its user, before the end."""
    if find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    (tmp_path / "app.py").write_text(HANGS)
    port = free_port()
    options = ("-b", f"127.0.0.1:{port}", "--timeout", "1", "--no-control-socket")
    with started(("gunicorn", *options, f"app:{app}"), tmp_path, server.dsn):
        ask_once(port)
        assert server.arrived.acquire(timeout=20)
    (event,) = server.events
    assert event["exception"]["values"][-1]["type"] == "SystemExit"
    assert event["user"] == {"id": "1"}
