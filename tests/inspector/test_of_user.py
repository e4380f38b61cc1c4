"""`reports erase`, `reports export`: all that a file has of a person, and nothing of others."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.inspector.running import keep
from usercontext.cli import main
from usercontext.inspector.index import ReportIndex
from usercontext.sentry import SentryClient, read_reports

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "al-who-wants-to-be-forgotten"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with three reports of one user, by different fields, and two of others."""
    path = tmp_path / "reports.db"
    keep(path, "one", user={"id": "7", "username": SECRET})
    keep(path, "two", user={"id": "8", "username": "bo"})
    keep(path, "three", user={"username": SECRET, "email": "al@example.com"})
    keep(path, "four", user={"id": "9", "name": "x"}, extra={"friend": "al@example.com"})
    keep(path, "five", user={"id": "7", "email": "al@example.com"})
    return path


def texts(path: Path) -> list[str]:
    """Return what is left in a file."""
    return [report["logentry"]["formatted"] for report in read_reports(path)]


@pytest.mark.parametrize("is_indexed", [False, True])
@pytest.mark.parametrize(
    ("user", "left"),
    [
        ("id:7", ["two", "three", "four"]),
        ("7", ["two", "three", "four"]),
        (SECRET, ["two", "four", "five"]),
        ("al@example.com", ["one", "two", "four"]),
        (f"username:{SECRET}", ["one", "two", "four", "five"]),
        ("nobody", ["one", "two", "three", "four", "five"]),
    ],
)
def test_erase(path: Path, user: str, left: list[str], is_indexed: bool) -> None:
    """Reports that name the user are deleted, whether the inspector has been there or not."""
    if is_indexed:
        with closing(ReportIndex(path)) as index:
            index.catch_up()
    assert main(["reports", "erase", str(path), "--user", user]) == 0

    assert texts(path) == left


def test_nothing_is_left(path: Path) -> None:
    """Not a byte of the user is left in the file, nor in what SQLite keeps beside it."""
    with closing(ReportIndex(path)) as index:
        index.catch_up()
    for user in ("id:7", SECRET):
        main(["reports", "erase", str(path), "--user", user])

    for file in path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()


def test_while_the_app_reports(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the app has the file open it is erased, too, and the app goes on."""
    with closing(SentryClient(f"sqlite:///{path}")) as client:
        client.capture_message("before")
        client.flush()
        assert main(["reports", "erase", str(path), "--user", "id:7"]) == 0
        client.capture_message("after")
        assert client.flush()

    assert texts(path)[-2:] == ["before", "after"]


def test_while_somebody_reads(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the file cannot be written anew that is said, with what to do."""
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM reports").fetchone()
        assert main(["reports", "erase", str(path), "--user", "id:7"]) == 1

    assert "run this once more" in capsys.readouterr().err
    assert texts(path) == ["two", "three", "four"]


def test_dry_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` shows what would go, and deletes nothing."""
    assert main(["reports", "erase", str(path), "--user", "id:7", "--dry-run"]) == 0
    shown = capsys.readouterr().out

    assert "2 reports would be erased" in shown
    assert "one" in shown
    assert len(texts(path)) == 5


def test_what_is_not_reached(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where else the person may be: reports of others, servers, files set aside."""
    aside = path.with_name("reports.db.corrupt-1-2")
    aside.touch()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sent_reports (target TEXT)")
        connection.execute("INSERT INTO sent_reports VALUES ('https://***@bugsink.example/1')")
    main(["reports", "erase", str(path), "--user", "al@example.com"])
    told = capsys.readouterr().err

    assert "1 report of others hold this text elsewhere" in told
    assert "not reached: https://***@bugsink.example/1" in told
    assert f"not reached: {aside}" in told
    assert "other reporting clients, logs, backups" in told


def test_export(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reports export` prints each of the user's reports whole, as JSON."""
    assert main(["reports", "export", str(path), "--user", "id:7"]) == 0
    shown = capsys.readouterr()

    reports = [json.loads(line) for line in shown.out.splitlines()]
    assert [report["logentry"]["formatted"] for report in reports] == ["one", "five"]
    assert "2 reports exported" in shown.err


@pytest.mark.parametrize("action", ["erase", "export"])
def test_over_an_outbox(tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    """An outbox's reports can be erased and exported as well; its server is named."""
    pytest.importorskip("httpx")
    path = tmp_path / "outbox.db"
    client = SentryClient("http://key@127.0.0.1:9/1", outbox=path)
    for number in (7, 8):
        client.capture_message(str(number), user={"id": number})
    client.close(10.0)
    assert main(["reports", action, str(path), "--user", "id:7"]) == 0

    shown = capsys.readouterr()
    assert "not reached: 127.0.0.1:9/1" in shown.err
    assert texts(path) == (["8"] if action == "erase" else ["7", "8"])


def test_a_user_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody erases everything by leaving out the user."""
    with pytest.raises(SystemExit, match="2"):
        main(["reports", "erase", "x.db"])
    assert "--user" in capsys.readouterr().err
