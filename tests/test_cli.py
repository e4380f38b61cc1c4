"""`usercontext reports PATH`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from usercontext import __version__
from usercontext.cli import main
from usercontext.sentry import SentryClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the reports."""
    return tmp_path / "reports.db"


@pytest.fixture
def client(path: Path) -> Iterator[SentryClient]:
    """A client that keeps its reports there."""
    client = SentryClient(f"sqlite:///{path}")
    yield client
    client.close()


def keep(client: SentryClient, message: str, **parts: Any) -> None:
    """Keep a report with further parts."""
    event = client.prepare_message(message)
    assert event is not None
    client.submit({**event, **parts})
    assert client.flush()


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Return the lines that a command prints."""
    assert main(["reports", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_table(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each report is a row: when, how bad, who, whence, what, where."""
    keep(client, "hello", user={"id": "7", "ip_address": "203.0.113.7"}, transaction="/cart")
    heading, row = lines(capsys, path)

    assert heading.split() == ["TIME", "LEVEL", "USER", "ADDRESS", "WHAT", "WHERE"]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  info   id:7  203\.0\.113\.7  hello  /cart", row
    )


def test_columns_align(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns are as wide as their widest cell, up to a bound."""
    keep(client, "short", user={"username": "al"})
    keep(client, "long " * 50, user={"email": f"{'x' * 100}@example.com"})
    rows = lines(capsys, path)

    assert (
        len({row.index(cell) for row, cell in zip(rows, ("WHAT", "short", "long"), strict=True)})
        == 1
    )
    assert "…" in rows[2]


def test_exception(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an exception the newest is told, and the URL where there is no transaction."""
    error = ValueError("newest")
    error.__cause__ = KeyError("oldest")
    client.capture_exception(error, request={"url": "http://shop/x", "env": {"REMOTE_ADDR": "::1"}})
    client.flush()

    assert re.search(r"-     ::1 +ValueError: newest  http://shop/x", lines(capsys, path)[1])


def test_bare_reports(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a report lacks, or has spoiled, is a dash."""
    keep(client, "x", logentry=None, level=None, user="al", timestamp=None, exception={"values": 7})

    assert lines(capsys, path)[1].split() == ["-"] * 6


USERS = [
    {"id": "7", "email": "al@example.com"},
    {"username": "al", "ip_address": "203.0.113.7"},
    {"email": "7"},
    {"id": "77"},
]
WANTED = {
    "7": ["0", "2"],
    "id:7": ["0"],
    "email:7": ["2"],
    "al": ["1"],
    "username:al": ["1"],
    "203.0.113.7": ["1"],
    "al@example.com": ["0"],
    "email:al@example.com": [],
    "nobody": [],
}


@pytest.mark.parametrize(("wanted", "found"), WANTED.items(), ids=WANTED)
def test_user(
    client: SentryClient,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    found: list[str],
) -> None:
    """`--user` finds by any of the four fields, or by the identity."""
    for number, user in enumerate(USERS):
        keep(client, str(number), user=user)
    shown = [json.loads(line) for line in lines(capsys, path, "--json", "--user", wanted)]

    assert [report["logentry"]["formatted"] for report in shown] == found


def test_json(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` shows each report whole, on a line of ASCII."""
    keep(client, "zwölf\nUhr", user={"id": "7"})
    (line,) = lines(capsys, path, "--json")

    assert line.isascii()
    assert json.loads(line)["user"] == {"id": "7"}
    assert json.loads(line)["logentry"]["formatted"] == "zwölf\nUhr"


def test_limit(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--limit` shows the newest, oldest of them first."""
    for number in range(5):
        keep(client, f"number {number}")

    assert [row.split()[-2] for row in lines(capsys, path, "--limit", 2)[1:]] == ["3", "4"]


def test_control_characters(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a client sent cannot command the terminal."""
    keep(client, "a\x1b[2Jb\nc\u202ed", user={"id": "\x07"})
    shown = "\n".join(lines(capsys, path))

    assert r"a\x1b[2Jb\nc\u202ed" in shown
    assert r"id:\x07" in shown
    assert shown.replace("\n", "").isprintable()


def test_dsn(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The DSN does as well as the path."""
    keep(client, "x")

    assert len(lines(capsys, f"sqlite:///{path}")) == 2


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is an error, with status 2."""
    assert main(["reports", str(tmp_path / "none.db")]) == 2
    assert "usercontext: there is no file" in capsys.readouterr().err


def test_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a file of another kind."""
    (tmp_path / "x.db").write_text("not a database")

    assert main(["reports", str(tmp_path / "x.db")]) == 2
    assert "is no SQLite database" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5"])
def test_bad_limit(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that is none is an error, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(["reports", "x.db", f"--limit={limit}"])

    assert "whole number of at least 1" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` says which."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out == f"usercontext {__version__}\n"


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "usercontext", "reports", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_follow(client: SentryClient, path: Path) -> None:
    """`--follow` shows new reports as they come, until Ctrl-C ends it with status 0."""
    import signal

    keep(client, "before", user={"id": "7"})
    with start(path, "--follow", "--user", "7") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("TIME")
        assert "before" in process.stdout.readline()
        keep(client, "of another", user={"id": "8"})
        keep(client, "after", user={"id": "7"})
        assert "after" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")

    assert process.returncode == 0


def test_broken_pipe(client: SentryClient, path: Path) -> None:
    """A reader that has enough (`| head`) causes no error."""
    for _ in range(20):
        keep(client, "x" * 7000)
    with start(path, "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""

    assert process.returncode == 0
