"""Forks, exits and threads that cannot be had: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from usercontext.sentry import read_reports

if TYPE_CHECKING:
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
