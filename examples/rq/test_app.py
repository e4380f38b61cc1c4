"""The RQ example: a job's report names the customer whose request enqueued it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rq")

HERE = Path(__file__).parent

ASK = """
from app import app
client = app.test_client()
client.post("/orders/7/invoice", headers={"x-user": "ada"})
client.post("/orders/8/invoice", headers={"x-user": "bob"})
client.post("/orders/9/invoice")
client.post("/orders/1/invoice", headers={"x-user": "ada"})
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


def test_a_job_names_its_customer(environ: dict[str, str], tmp_path: Path) -> None:
    """Jobs of ada, of bob and of nobody are reported as such, once each after two attempts."""
    from usercontext.sentry import read_reports

    subprocess.run([sys.executable, "-c", ASK], env=environ, cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "-u", environ["REDIS_URL"]]
    subprocess.run(
        [*command, "-c", "app"],
        env=environ,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=90,
    )
    users = [
        (report.get("user") or {}).get("id") for report in read_reports(tmp_path / "reports.db")
    ]
    assert sorted(map(str, users)) == ["None", "ada", "bob"]
