"""`usercontext reports PATH` and `usercontext outbox status|flush|clear PATH`."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import Answer, serving
from usercontext import __version__
from usercontext.cli import main
from usercontext.sentry import SentryClient
from usercontext.sentry.delivery.outbox_status import outbox_status

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
    event = client.build_message(message)
    assert event is not None
    client.send({**event, **parts})
    assert client.flush()


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Return the lines that a command prints."""
    assert main(["reports", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_table(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each report is a row: when, how bad, who, whence, what, where, and its id."""
    user = {"id": "7", "username": "al", "ip_address": "203.0.113.7"}
    keep(client, "hello", user=user, transaction="/cart")
    heading, row = lines(capsys, path)

    assert heading.split() == [
        "TIME",
        "LEVEL",
        "USER",
        "USERNAME",
        "ADDRESS",
        "WHAT",
        "WHERE",
        "EVENT",
    ]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  info   id:7  al        203\.0\.113\.7  hello  "
        r"/cart  [0-9a-f]{32}",
        row,
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

    row = lines(capsys, path)[1]
    assert re.search(r"nobody  - +::1 +ValueError: newest  http://shop/x", row)


def test_bare_reports(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a report lacks, or has spoiled, is a dash, and its user nobody."""
    keep(client, "x", logentry=None, level=None, user="al", timestamp=None, exception={"values": 7})

    assert lines(capsys, path)[1].split()[:-1] == ["-", "-", "nobody", "-", "-", "-", "-"]


def test_an_address_is_nobody(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address alone names nobody; it has a column of its own."""
    keep(client, "x", user={"ip_address": "203.0.113.7"})

    assert lines(capsys, path)[1].split()[3:6] == ["nobody", "-", "203.0.113.7"]


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

    assert [row.split()[-3] for row in lines(capsys, path, "--limit", 2)[1:]] == ["3", "4"]


def test_newest_of_a_user(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--limit` counts what `--user` and `--level` leave."""
    for number in range(6):
        keep(client, f"number {number}", user={"id": number % 2}, level="error")
    keep(client, "mild", user={"id": 1}, level="warning")
    rows = lines(capsys, path, "--user", "1", "--level", "error", "--limit", 2)

    assert [row.split()[-3] for row in rows[1:]] == ["3", "5"]


@pytest.mark.parametrize(
    ("least", "found"), [("debug", 3), ("warning", 2), ("error", 1), ("fatal", 0)]
)
def test_level(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str], least: str, found: int
) -> None:
    """`--level` takes what is as bad, or worse."""
    for level in ("info", "warning", "error"):
        keep(client, level, level=level)

    assert len(lines(capsys, path, "--level", least)) == found + 1


def test_since(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--since` takes an age, or a time."""
    keep(client, "old", timestamp=time.time() - 3 * 3600)
    keep(client, "new")

    assert len(lines(capsys, path, "--since", "2h")) == 2
    assert len(lines(capsys, path, "--since", "1d")) == 3
    assert len(lines(capsys, path, "--since", "2020-01-31T08:00")) == 3


@pytest.mark.parametrize("age", ["2", "h", "yesterday", "-2h"])
def test_bad_since(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is told, with what to write."""
    with pytest.raises(SystemExit, match="2"):
        main(["reports", "x.db", f"--since={age}"])

    assert "neither an age such as 30m" in capsys.readouterr().err


def test_the_file_of_the_environment(
    client: SentryClient,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a path the file of `USERCONTEXT_DSN` is shown; without that, what to do."""
    keep(client, "x")
    monkeypatch.setenv("USERCONTEXT_DSN", f"sqlite:///{path}")
    assert len(lines(capsys)) == 2

    monkeypatch.setenv("USERCONTEXT_DSN", "https://key@sentry.example/1")
    assert main(["reports"]) == 2
    assert "name the file of the reports" in capsys.readouterr().err


def fail(client: SentryClient) -> str:
    """Keep the report of an exception with a cause, and return its id."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            price = 42
            raise ValueError(f"outer {price}") from error
    except ValueError as error:
        request = {"method": "GET", "url": "http://shop/x", "headers": {"Accept": "*/*"}}
        event_id = client.capture_exception(error, user={"id": 7}, request=request)
    assert event_id is not None
    client.flush()
    return event_id


def test_one_report(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report` shows traceback with source lines and variables, its chain, user and request."""
    with closing(SentryClient(f"sqlite:///{path}", include_local_variables=True)) as client:
        event_id = fail(client)
    assert main(["report", str(path), event_id]) == 0
    shown = capsys.readouterr().out

    assert shown.startswith("ValueError: outer 42\n")
    assert re.search(r"> +\d+ +raise KeyError\(.inner.\)", shown.replace("  ", " "))
    assert "price = 42" in shown
    assert shown.index("KeyError: 'inner'  (the cause)") < shown.rindex("ValueError: outer 42")
    for part in ("id  7", "url     http://shop/x", "Accept  */*", f"event {event_id}"):
        assert part in shown
    assert "\x1b" not in shown


def test_colours(
    client: SentryClient,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal it is in colours, unless NO_COLOR is set; the id may be its first digits."""
    event_id = fail(client)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["report", str(path), event_id[:8]])
    assert "\x1b[31m" in capsys.readouterr().out

    monkeypatch.setenv("NO_COLOR", "1")
    main(["report", str(path), event_id[:8]])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        ("0000", "no report that"),
        ("xyzw", "not an event id"),
        ("12", "not an event id"),
        ("abab", "several"),
    ],
)
def test_no_such_report(
    client: SentryClient,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    event: str,
    complaint: str,
) -> None:
    """An id that is none, or not that of one report alone, is told."""
    for last in "12":
        keep(client, "x", event_id=f"{'ab' * 15}0{last}")
    keep(client, "x")

    assert main(["report", str(path), event]) == 2
    assert complaint in capsys.readouterr().err


def test_verbose(client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reports --verbose` shows every report so."""
    fail(client)
    keep(client, "hello", user={"id": "8"})
    shown = "\n".join(lines(capsys, path, "--verbose"))

    assert shown.index("Traceback (most recent call last)") < shown.index("hello")


def test_only_the_users_reports_are_read(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's reports are found by the index: no other payload is looked at."""
    keep(client, "his", user={"id": "7"})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO reports VALUES ('x', 1.0, 'id:8', 'not JSON')")

    assert len(lines(capsys, path, "--user", "id:7")) == 2


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
    assert "is not an SQLite database" in capsys.readouterr().err


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


def test_as_a_module() -> None:
    """`python -m usercontext` is the same command, where scripts are on no path."""
    command = [sys.executable, "-m", "usercontext", "--version"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)

    assert shown.stdout == f"usercontext {__version__}\n"


# Where the tests run in the background of a shell, Ctrl-C is ignored, also by what they start.
WITH_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from usercontext.cli import main
sys.exit(main())
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own, which Ctrl-C can end."""
    command = [sys.executable, "-c", WITH_CTRL_C, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_follow(client: SentryClient, path: Path) -> None:
    """`--follow` shows new reports as they come, until Ctrl-C ends it with status 0."""
    keep(client, "before", user={"id": "7"})
    with start("reports", path, "--follow", "--user", "7") as process:
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
    with start("reports", path, "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""

    assert process.returncode == 0


# The outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """An outbox in which three reports wait for a server that is not there."""
    pytest.importorskip("httpx")
    path = tmp_path / "outbox.db"
    client = SentryClient("http://key@127.0.0.1:9/1", outbox=path)
    for number in range(3):
        client.capture_message(str(number))
    assert client.close(10.0)
    return path


def test_outbox_status(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`outbox status` says how many reports wait, for whom and how long, and tells no key."""
    assert main(["outbox", "status", str(outbox)]) == 0
    shown = capsys.readouterr().out

    assert re.search(r"^waiting  3 \(0 of them for a running process\)$", shown, re.MULTILINE)
    assert re.search(r"^size     \d\.\d KiB$", shown, re.MULTILINE)
    assert re.search(r"^oldest   \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", shown, re.MULTILINE)
    assert re.search(r"^server   127\.0\.0\.1:9/1  3$", shown, re.MULTILINE)
    assert "key" not in shown


def test_outbox_of_a_running_process(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a running process will send is told apart, and left to it."""
    client = SentryClient("http://key@127.0.0.1:9/1", outbox=outbox)
    client.flush(10.0)
    main(["outbox", "status", str(outbox)])
    assert "waiting  3 (3 of them" in capsys.readouterr().out

    assert main(["outbox", "flush", str(outbox)]) == 0
    assert capsys.readouterr().out == "127.0.0.1:9/1: 0 sent, 0 left\n"
    client.close()


def test_outbox_flush(
    outbox: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`outbox flush` sends what waits and says so, on a terminal while it goes on."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with serving() as server, closing(sqlite3.connect(outbox)) as connection, connection:
        connection.execute("UPDATE reports SET target = ?", (server.dsn.replace(":hunter2", ""),))
        connection.commit()
        server.answers.append(Answer(400))

        assert main(["outbox", "flush", str(outbox)]) == 0
        assert len(server.received) == 3
    shown = capsys.readouterr()

    assert shown.out.endswith(": 2 sent, send_error 1, 0 left\n")
    assert "/1: 2 of 3" in shown.err


def test_ctrl_c_in_outbox_flush(outbox: Path) -> None:
    """Ctrl-C ends it with the status that shells expect, and what was not sent still waits."""
    with serving() as server, closing(sqlite3.connect(outbox)) as connection:
        connection.execute("UPDATE reports SET target = ?", (server.dsn.replace(":hunter2", ""),))
        connection.commit()
        server.answering.clear()
        with start("outbox", "flush", outbox) as process:
            assert server.arrived.acquire(timeout=30)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=30)

        assert process.returncode == 130
        assert "Traceback" not in complaint
        assert connection.execute("SELECT count(*) FROM reports").fetchone() == (3,)


def test_outbox_flush_in_vain(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the server cannot be reached, the status is 1 and nothing is lost."""
    assert main(["outbox", "flush", str(outbox)]) == 1
    shown = capsys.readouterr()

    assert shown.out == "127.0.0.1:9/1: 0 sent, 3 left\n"
    assert "cannot be reached now" in shown.err


def test_outbox_clear(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`outbox clear` deletes what waits."""
    assert main(["outbox", "clear", str(outbox)]) == 0
    assert capsys.readouterr().out == "3 deleted\n"
    main(["outbox", "status", str(outbox)])
    assert "waiting  0" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["status", "flush", "clear"])
def test_outbox_of_another_kind(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """A file that is not an outbox, or none at all, is told with a status of 2."""
    keep(client, "x")

    assert main(["outbox", action, str(path)]) == 2
    assert "is not an outbox" in capsys.readouterr().err
    assert main(["outbox", action, str(path.with_name("none"))]) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["flush", "clear"])
def test_outbox_that_is_locked(
    outbox: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """A file that another program locks is told, too, and loses nothing."""
    monkeypatch.setattr("usercontext.sentry.delivery.database._BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(outbox)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        status = main(["outbox", action, str(outbox)])

    assert status == 2
    assert "cannot be used now" in capsys.readouterr().err
    assert sum(outbox_status(outbox).waiting.values()) == 3


def test_damaged_outbox(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is one that is damaged beyond its beginning."""
    content = outbox.read_bytes()
    outbox.write_bytes(content[:4096] + b"x" * (len(content) - 4096))

    assert main(["outbox", "status", str(outbox)]) == 2
    assert str(outbox) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["status"], ["open", "x"], ["clear", "x", "y"]], ids=" ".join
)
def test_outbox_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments are told with the usage, and a status of 2."""
    with pytest.raises(SystemExit) as caught:
        main(["outbox", *arguments])

    assert caught.value.code == 2
    assert "usage: usercontext" in capsys.readouterr().err


def test_outbox_status_of_reports(
    client: SentryClient, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`outbox status` of a file of reports says what the file is, and what shows it."""
    keep(client, "x")

    assert main(["outbox", "status", str(path)]) == 2
    assert "it keeps the reports of a sqlite:/// DSN" in capsys.readouterr().err


def test_reports_of_an_outbox(outbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reports` of an outbox shows them, and says what the file is."""
    assert main(["reports", str(outbox)]) == 0
    shown = capsys.readouterr()

    assert len(shown.out.splitlines()) == 4
    assert "these wait in an outbox for their server" in shown.err
