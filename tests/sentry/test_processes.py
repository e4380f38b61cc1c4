"""Forks, exits and threads that cannot be had: each in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
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
    with client._outgoing.transport.queue.changed:
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
client._outgoing.transport.pid = -1  # as if this were a child that uwsgi forked
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


RESOLVING = """
import socket
resolve, parent = socket.getaddrinfo, os.getpid()
resolving, go_on, resolved = threading.Event(), threading.Event(), threading.Event()
def resolve_slowly(*args, **kwargs):
    if os.getpid() == parent:
        resolving.set()
        go_on.wait()
    answer = resolve(*args, **kwargs)
    resolved.set()
    return answer
socket.getaddrinfo = resolve_slowly
client.capture_message("parent")
resolving.wait()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("script", FORKS.values(), ids=FORKS)
def test_fork_over_http(server: SentryServer, script: str) -> None:
    """Parent and child each send their own reports, once."""
    run(script, server.dsn)

    assert sent(server) == ["child", "parent"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_waits_for_a_connection_being_made(server: SentryServer) -> None:
    """A child never begins with the locks of name resolution taken by a thread of its parent."""
    script = """
os.register_at_fork(before=go_on.set)
in_child(lambda: resolved.is_set() and client.capture_message("child") and client.flush(10))
"""
    run(RESOLVING + script, server.dsn)

    assert sent(server) == ["child", "parent"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_does_not_wait_long_for_a_connection(server: SentryServer) -> None:
    """A process may fork while its server cannot be reached."""
    script = """
in_child(lambda: client.capture_message("child") and client.flush(10))
go_on.set()
"""
    run(RESOLVING + script, server.dsn)

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
    run(
        "client._outgoing.transport.shutdown_timeout = 0.1; client.capture_message('x')", server.dsn
    )


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


@pytest.mark.parametrize(
    ("options", "says"), [({}, True), ({"enable-threads": True}, False), ({"threads": b"2"}, False)]
)
def test_uwsgi_is_told_to_use_threads(
    server: SentryServer, options: dict[str, Any], says: bool
) -> None:
    """Under uwsgi without threads the log says what to do, and with them nothing."""
    script = f"""
import logging, types
logging.basicConfig(stream=sys.stdout)
sys.modules["uwsgi"] = types.SimpleNamespace(opt={options})
from usercontext.sentry import SentryClient
client = SentryClient({server.dsn!r})
client.capture_message("x")
client.flush(10)
"""
    assert ("add --enable-threads" in run(script, server.dsn)) is says


UWSGI_HOOK = """
import types
uwsgi = sys.modules["uwsgi"] = types.SimpleNamespace(opt={})
uwsgi.after_req_hook = lambda: print("the app's own")
from usercontext.sentry import SentryClient
for message in "xy":
    SentryClient(DSN).capture_message(message)
uwsgi.after_req_hook()
"""


def test_after_a_request_of_uwsgi(server: SentryServer) -> None:
    """Without threads every client sends when a response is sent, and the app's own hook runs."""
    assert run(UWSGI_HOOK.replace("DSN", repr(server.dsn)), server.dsn) == "the app's own\n"

    assert sent(server) == ["x", "y"]


def test_captured_in_a_signal_handler(server: SentryServer) -> None:
    """A report captured while the same thread holds our lock does not hang."""
    script = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: client.capture_message("signal"))
with client._outgoing.transport.queue.changed:
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
    """Return a port that nobody uses, and that no connection is given before the server is up."""
    for port in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def served(
    command: list[str],
    port: int,
    environ: dict[str, str],
    directory: Path,
    *,
    wait: Callable[[], object] = lambda: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> str:
    """Run a server of the app until it has served three requests, and end it politely.

    Returns what it has logged.
    """
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
            meanwhile()
            try:
                _, log = process.communicate(timeout=30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert b"Traceback" not in log, log.decode()
    return log.decode()


SETTINGS = """
from pathlib import Path

def post_worker_init(worker):
    Path(f"{worker.pid}.ready").touch()
"""


def options_of(kind: str, directory: Path) -> str:
    """Return the client's options, as text."""
    return repr({"outbox": str(directory / "outbox.db")} if kind == "outbox" else {})


@pytest.mark.parametrize("kind", ["http", "outbox"])
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each", "preload"])
def test_gunicorn(server: SentryServer, tmp_path: Path, preload: list[str], kind: str) -> None:
    """Workers of gunicorn send what they captured, and each report once."""
    pytest.importorskip("gunicorn")
    port = free_port()
    (tmp_path / "gunicorn.conf.py").write_text(SETTINGS)
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "app"]
    environ = {"DSN": server.dsn, "OPTIONS": options_of(kind, tmp_path)}

    def wait_for_workers() -> None:
        # A worker that is told to end before it is ready forgets it, until gunicorn kills it.
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*.ready"))) < 2:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    command += ["--no-control-socket", *preload]
    log = served(command, port, environ, tmp_path, wait=wait_for_workers)

    assert sent(server).count("served") == 3, log
    assert sent(server).count("loaded") == (1 if preload else 2)


UWSGI = {
    # Without the hooks, uwsgi forks whatever the threads of its master are doing, and may hang.
    "loaded before the fork": ["--enable-threads", "--py-call-uwsgi-fork-hooks"],
    "loaded after the fork": ["--enable-threads", "--lazy-apps"],
    "without threads": [],
    "without threads, loaded after the fork": ["--lazy-apps"],
}


def served_by_uwsgi(
    server: SentryServer,
    directory: Path,
    options: list[str],
    kind: str,
    *,
    wait: Callable[[], object] = lambda: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Run uwsgi until it has served three requests, and end it politely; or skip without it."""
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable)) or shutil.which("uwsgi")  # noqa: PTH120
    if program is None:
        pytest.skip("uwsgi is not installed")
    port, stats = free_port(), free_port()
    command = [program, "--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "app.py", "--master"]
    environ = {"DSN": server.dsn, "OPTIONS": options_of(kind, directory)}
    options = ["--processes", "1", "--die-on-term", "--stats", f"127.0.0.1:{stats}", *options]

    def wait_and_rest() -> None:
        wait()
        wait_for_rest(stats)

    served([*command, *options], port, environ, directory, wait=wait_and_rest, meanwhile=meanwhile)


def wait_for_rest(stats: int) -> None:
    """Wait until a uwsgi of one worker is idle: a busy one that is ended runs no exit handlers."""
    deadline = time.monotonic() + 30
    status = ""
    while status != "idle":
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
        with socket.create_connection(("127.0.0.1", stats), timeout=10) as connection:
            status = json.load(connection.makefile())["workers"][0]["status"]


@pytest.mark.parametrize("kind", ["http", "outbox"])
@pytest.mark.parametrize("options", UWSGI.values(), ids=UWSGI)
def test_uwsgi(server: SentryServer, tmp_path: Path, options: list[str], kind: str) -> None:
    """So do those of uwsgi, while they serve."""

    def wait() -> None:
        while sent(server).count("served") < 3:
            assert server.arrived.acquire(timeout=20)

    served_by_uwsgi(server, tmp_path, options, kind, wait=wait)

    assert sent(server).count("served") == 3


@pytest.mark.parametrize("options", list(UWSGI.values())[:2], ids=list(UWSGI)[:2])
def test_the_end_of_uwsgi(server: SentryServer, tmp_path: Path, options: list[str]) -> None:
    """What is queued when uwsgi is told to end is sent before it has ended."""
    server.answering.clear()
    served_by_uwsgi(server, tmp_path, options, "http", meanwhile=server.answering.set)

    assert sent(server).count("served") == 3
