"""Forks, exits and threads that cannot be had: each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from usercontext.sentry import read_reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sentry.server import SentryServer

PRELUDE = """
import atexit, os, sys, threading
from usercontext.sentry import SentryClient
client = SentryClient(sys.argv[1], shutdown_timeout=10.0)

def in_child(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if function() else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
"""


def run(script: str, dsn: str) -> str:
    """Run a script with a client of this DSN; return what it prints."""
    command = [sys.executable, "-X", "dev", "-c", PRELUDE + script, dsn]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sent(server: SentryServer) -> list[str]:
    """Return the messages that arrived, sorted."""
    return sorted(event["logentry"]["formatted"] for event in server.events)


FORKS = {
    "before the first report": """
in_child(lambda: client.capture_message("child") and client.flush(10))
client.capture_message("parent")
""",
    "after a report": """
client.capture_message("parent")
assert client.flush(10)
in_child(lambda: client.capture_message("child") and client.flush(10))
""",
    "with reports queued": """
client.capture_message("parent")
in_child(lambda: client.capture_message("child") and client.flush(10))
""",
    "while a thread holds the lock": """
held, go_on = threading.Event(), threading.Event()
def hold():
    with client._transport._wake:
        held.set()
        go_on.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
in_child(lambda: client.capture_message("child") and client.flush(10))
go_on.set()
thread.join()
client.capture_message("parent")
""",
    "without Python's hooks": """
client.capture_message("parent")
assert client.flush(10)
client._transport._pid = -1  # as if this were a child that uwsgi forked
client.capture_message("child")
""",
    "in a child of a child": """
def child():
    in_child(lambda: client.capture_message("child") and client.flush(10))
    return True
client.capture_message("parent")
in_child(child)
""",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("script", FORKS.values(), ids=FORKS)
def test_fork_over_http(server: SentryServer, script: str) -> None:
    """Parent and child each send their own reports, once."""
    run(script, server.dsn)

    assert sent(server) == ["child", "parent"]


@pytest.mark.parametrize("script", FORKS.values(), ids=FORKS)
def test_fork_over_sqlite(tmp_path: Path, script: str) -> None:
    """Parent and child each write their own reports, once."""
    run(script, f"sqlite:///{tmp_path}/reports.db")
    reports = read_reports(tmp_path / "reports.db")

    assert sorted(report["logentry"]["formatted"] for report in reports) == ["child", "parent"]


def test_child_counts_anew(tmp_path: Path) -> None:
    """A child's numbers are its own."""
    script = """
client.capture_message("parent")
in_child(lambda: client.stats()["captured"] == 0 and client.flush(0))
assert client.stats()["captured"] == 1
"""
    run(script, f"sqlite:///{tmp_path}/reports.db")


def test_forks_at_any_moment(tmp_path: Path) -> None:
    """Children forked while threads capture never hang, and nothing is lost."""
    script = """
stop = threading.Event()
def capture():
    while not stop.is_set():
        client.capture_message("x")
threads = [threading.Thread(target=capture) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    for _ in range(20):
        in_child(lambda: client.capture_message("child") and client.flush(20))
finally:
    stop.set()
for thread in threads:
    thread.join()
"""
    run(script, f"sqlite:///{tmp_path}/reports.db")
    reports = read_reports(tmp_path / "reports.db")

    assert sum(report["logentry"]["formatted"] == "child" for report in reports) == 20


def test_flushed_at_exit(server: SentryServer) -> None:
    """What is queued at exit is sent, within the time allowed."""
    run("for n in range(9): client.capture_message(str(n))", server.dsn)

    assert sent(server) == list("012345678")


def test_exit_does_not_wait_for_long(server: SentryServer) -> None:
    """A server that does not answer delays the exit by that time alone."""
    server.answering.clear()
    run("client._transport._shutdown_timeout = 0.1; client.capture_message('x')", server.dsn)


def test_captured_during_exit(server: SentryServer) -> None:
    """A report captured at exit, when no thread can be started any more, is sent."""
    script = """
atexit.register(lambda: client.capture_message("late") and client.flush(10))
"""
    run(script, server.dsn)

    assert sent(server) == ["late"]


NO_THREADS = """
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
client.capture_message("x")
assert client.stats()["queued"] == 1
assert client.{}(10)
assert client.stats()["sent"] == 1
"""


@pytest.mark.parametrize("method", ["flush", "close"])
def test_no_threads(server: SentryServer, method: str) -> None:
    """Where no thread can be had, `flush()` and `close()` send."""
    run(NO_THREADS.format(method), server.dsn)

    assert sent(server) == ["x"]


def test_uwsgi_without_threads(server: SentryServer) -> None:
    """Under uwsgi without threads, the log says what to do."""
    script = """
import logging, types
logging.basicConfig(stream=sys.stdout)
sys.modules["uwsgi"] = types.SimpleNamespace(opt={})
client.capture_message("x")
client.flush(10)
"""
    assert "add --enable-threads" in run(script, server.dsn)


def test_uwsgi_with_threads(server: SentryServer) -> None:
    """With threads it says nothing."""
    script = """
import logging, types
logging.basicConfig(stream=sys.stdout)
sys.modules["uwsgi"] = types.SimpleNamespace(opt={"enable-threads": True})
client.capture_message("x")
client.flush(10)
"""
    assert run(script, server.dsn) == ""


def test_captured_in_a_signal_handler(server: SentryServer) -> None:
    """A report captured while the same thread holds our lock does not hang."""
    script = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: client.capture_message("signal"))
with client._transport._wake:
    os.kill(os.getpid(), signal.SIGUSR1)
client.flush(10)
"""
    run(script, server.dsn)

    assert sent(server) == ["signal"]


MULTIPROCESSING = """
import multiprocessing, sys
from usercontext.sentry import SentryClient

def work(dsn, client=None):
    client = client or SentryClient(dsn, shutdown_timeout=10.0)
    client.capture_message("child")

if __name__ == "__main__":
    method, dsn = sys.argv[1:]
    client = SentryClient(dsn, shutdown_timeout=10.0)
    client.capture_message("parent")
    arguments = (dsn, client) if method == "fork" else (dsn,)
    process = multiprocessing.get_context(method).Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(server: SentryServer, tmp_path: Path, method: str) -> None:
    """Children of multiprocessing, which end by `os._exit`, send what they captured first."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    script = tmp_path / "script.py"
    script.write_text(MULTIPROCESSING)
    command = [sys.executable, str(script), method, server.dsn]
    subprocess.run(command, check=True, timeout=60)

    assert sent(server) == ["child", "parent"]


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import sys, gevent
from usercontext.sentry import SentryClient
client = SentryClient(sys.argv[1], **eval(sys.argv[2]))
gevent.joinall([gevent.spawn(client.capture_message, str(number)) for number in range(9)])
assert client.flush(10)
client.capture_message("9")
"""


@pytest.mark.parametrize("kind", ["http", "outbox"])
def test_gevent(server: SentryServer, tmp_path: Path, kind: str) -> None:
    """Under gevent, greenlets capture, and what is queued at exit is sent."""
    pytest.importorskip("gevent")
    options = {"outbox": str(tmp_path / "outbox.db")} if kind == "outbox" else {}
    command = [sys.executable, "-c", GEVENT, server.dsn, repr(options)]
    subprocess.run(command, check=True, timeout=60)

    assert sent(server) == list("0123456789")


APP = """
import os
from usercontext.sentry import SentryClient
client = SentryClient(os.environ["DSN"], shutdown_timeout=10.0, **eval(os.environ["OPTIONS"]))
client.capture_message("loaded")

def application(environ, start_response):
    client.capture_message("served")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def ask(port: int) -> bytes:
    """Ask a server that is about to start, until it answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
        except OSError:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


def served(
    command: list[str],
    port: int,
    environ: dict[str, str],
    directory: Path,
    wait: Callable[[], object] = lambda: None,
) -> None:
    """Run a server of the app until it has served three requests, and end it politely."""
    (directory / "app.py").write_text(APP)
    environ = {**os.environ, **environ}
    with subprocess.Popen(
        command, cwd=directory, env=environ, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            for _ in range(3):
                assert ask(port) == b"ok"
            wait()
        finally:
            process.terminate()
            try:
                _, log = process.communicate(timeout=30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert b"Traceback" not in log, log.decode()


def options_of(kind: str, directory: Path) -> str:
    """Return the client's options, as text."""
    return repr({"outbox": str(directory / "outbox.db")} if kind == "outbox" else {})


@pytest.mark.parametrize("kind", ["http", "outbox"])
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each", "preload"])
def test_gunicorn(server: SentryServer, tmp_path: Path, preload: list[str], kind: str) -> None:
    """Workers of gunicorn send what they captured, and each report once."""
    pytest.importorskip("gunicorn")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "app"]
    environ = {"DSN": server.dsn, "OPTIONS": options_of(kind, tmp_path)}
    served([*command, "--no-control-socket", *preload], port, environ, tmp_path)

    assert sent(server).count("served") == 3
    assert sent(server).count("loaded") == (1 if preload else 2)


UWSGI = {
    # Without the hooks, uwsgi forks whatever the threads of its master are doing, and may hang.
    "loaded before the fork": ["--enable-threads", "--py-call-uwsgi-fork-hooks"],
    "loaded after the fork": ["--enable-threads", "--lazy-apps"],
}


@pytest.mark.parametrize("options", UWSGI.values(), ids=UWSGI)
def test_uwsgi(server: SentryServer, tmp_path: Path, options: list[str]) -> None:
    """So do those of uwsgi, while they serve."""
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable)) or shutil.which("uwsgi")  # noqa: PTH120
    if program is None:
        pytest.skip("uwsgi is not installed")
    port = free_port()
    command = [program, "--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "app.py", "--master"]
    environ = {"DSN": server.dsn, "OPTIONS": "{}"}

    def wait() -> None:
        for _ in range(4):
            assert server.arrived.acquire(timeout=20)

    served([*command, "--processes", "1", "--die-on-term", *options], port, environ, tmp_path, wait)

    assert sent(server).count("served") == 3
