"""Flask alone, then Bugsink: each report names its customer in the file and at the server."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SERVER = HERE.parents[1] / "tests" / "sentry" / "bugsink_server.py"

# What happens in a process of the shop: somebody's order fails.
ASK = """
import sys
from app import app, usercontext
client = app.test_client()
client.post(f"/login/{sys.argv[1]}")
client.get("/orders/7")
assert usercontext.flush(30)
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Where the shop is found, and where it may write."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}


@pytest.fixture(scope="module")
def bugsink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of its own, and its database."""
    pytest.importorskip("bugsink")
    pytest.importorskip("waitress")
    folder = tmp_path_factory.mktemp("bugsink")
    command = [sys.executable, str(SERVER), str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), folder / "db.sqlite3"
        finally:
            server.kill()


def ask(username: str, folder: Path, environ: dict[str, str]) -> None:
    """Let an order of a customer's fail, in a process of the shop."""
    subprocess.run([sys.executable, "-c", ASK, username], cwd=folder, env=environ, check=True)


def usercontext(*arguments: str, folder: Path, environ: dict[str, str]) -> str:
    """Run a command of usercontext's."""
    command = [sys.executable, "-m", "usercontext", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


def users_at(database: Path) -> list[str]:
    """Return the customers of the events that Bugsink has; that of `verify` has another user."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT data FROM events_event").fetchall()
    users = [json.loads(data).get("user", {}) for (data,) in rows]
    return sorted(user["username"] for user in users if "username" in user)


def test_a_file_names_the_customers(tmp_path: Path, environ: dict[str, str]) -> None:
    """Without any server the reports are in a file, each with its customer."""
    for username in ("ada", "bob"):
        ask(username, tmp_path, environ)
    lines = usercontext("reports", "reports.db", "--json", folder=tmp_path, environ=environ)
    found = [json.loads(line)["user"]["username"] for line in lines.splitlines()]
    assert sorted(found) == ["ada", "bob"]


def test_bugsink_takes_over(
    tmp_path: Path, environ: dict[str, str], bugsink: tuple[str, Path]
) -> None:
    """What the file has kept is sent, and what fails from then on arrives by itself."""
    dsn, database = bugsink
    ask("ada", tmp_path, environ)
    usercontext("verify", dsn, folder=tmp_path, environ=environ)
    usercontext("reports", "send", "reports.db", "--dsn", dsn, folder=tmp_path, environ=environ)
    ask("bob", tmp_path, {**environ, "USERCONTEXT_DSN": dsn, "USERCONTEXT_OUTBOX": "outbox.db"})
    assert users_at(database) == ["ada", "bob"]
