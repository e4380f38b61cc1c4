"""The Celery example: a task's report names the customer whose request enqueued it."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("celery")

HERE = Path(__file__).parent

ASK = """
import sys
from app import app, close_books
client = app.test_client()
client.post("/orders/7/invoice", headers={"x-user": "ada"})
client.post("/orders/8/invoice", headers={"x-user": "bob"})
client.post("/orders/9/invoice")
close_books.delay()
"""


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a Redis of the test's own, and return where it is and where reports go."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert any("Ready to accept" in line for line in server.stdout)
    yield {
        **os.environ,
        "REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "USERCONTEXT_DSN": f"sqlite:///{tmp_path / 'reports.db'}",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    server.terminate()
    server.wait()
    server.stdout.close()


def test_a_task_names_its_customer(environ: dict[str, str], tmp_path: Path) -> None:
    """Tasks of ada, of bob, of nobody and of no request are reported as such."""
    from usercontext.sentry import read_reports

    command = [sys.executable, "-m", "celery", "-A", "app.celery", "worker", "--concurrency", "1"]
    options = ["--loglevel", "INFO", "--without-mingle", "--without-gossip"]
    subprocess.run([sys.executable, "-c", ASK], env=environ, cwd=tmp_path, check=True)
    worker = subprocess.Popen(
        [*command, *options],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert worker.stdout is not None
    timer = threading.Timer(60, worker.kill)
    timer.start()
    failed = 0
    for line in worker.stdout:
        failed += "raised unexpected" in line
        if failed == 4:
            break
    worker.terminate()
    worker.communicate(timeout=30)
    timer.cancel()
    users = [
        (report.get("user") or {}).get("id") for report in read_reports(tmp_path / "reports.db")
    ]
    assert sorted(map(str, users)) == ["None", "None", "ada", "bob"]
