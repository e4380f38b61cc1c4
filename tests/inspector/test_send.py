"""`reports send`: from a file to a server, each report once, with its id and time."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.inspector.running import keep
from tests.sentry.server import Answer, SentryServer, serving
from usercontext.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("httpx")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with five reports."""
    path = tmp_path / "reports.db"
    for number in range(5):
        keep(
            path, f"number {number}", user={"id": str(number)}, timestamp=time.time() - 60 + number
        )
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SentryServer]:
    """A server that takes envelopes."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


def send(path: Path, server: SentryServer) -> int:
    """Send the reports, and return the status."""
    return main(["reports", "send", str(path), "--dsn", server.dsn])


def test_all_are_sent(path: Path, server: SentryServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is sent once, the oldest first, under its own id and time and with its user."""
    from usercontext.sentry import read_reports

    assert send(path, server) == 0
    assert capsys.readouterr().out == "5 sent, 0 left\n"
    assert server.events == list(read_reports(path))
    assert send(path, server) == 0
    assert capsys.readouterr().out == "0 sent, 0 left\n"


def test_it_goes_on(path: Path, server: SentryServer, capsys: pytest.CaptureFixture[str]) -> None:
    """What was not sent is sent by the next run, and nothing twice."""
    server.answers += [Answer(), Answer(), Answer(503)]
    assert send(path, server) == 1
    shown = capsys.readouterr()
    assert shown.out == "2 sent, 3 left\n"
    assert "503: the server, or a proxy in front of it, has a fault" in shown.err

    keep(path, "later")
    assert send(path, server) == 0
    sent = [event["logentry"]["formatted"] for event in server.events]
    assert sent == [*(f"number {n}" for n in (0, 1, 2, 2, 3, 4)), "later"]


def test_a_report_that_is_refused(
    path: Path, server: SentryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that the server refuses is told, and keeps none of the others."""
    server.answers += [Answer(413), Answer(400)]
    assert send(path, server) == 0
    assert capsys.readouterr().out == "3 sent, 1 answered 413, 1 answered 400, 0 left\n"


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_dsn(
    path: Path, server: SentryServer, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    """An answer that all reports would get ends it, with what to mend."""
    server.answers.append(Answer(status))
    assert send(path, server) == 1
    shown = capsys.readouterr()

    assert shown.out == "0 sent, 5 left\n"
    assert f"answered {status}: the" in shown.err or f"answered {status}: there" in shown.err


def test_it_waits_as_the_server_asks(
    path: Path,
    server: SentryServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that asks to wait is waited for, and a terminal shows how far it has come."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    server.answers.append(Answer(429, {"Retry-After": "1"}))
    assert send(path, server) == 0
    shown = capsys.readouterr()

    assert shown.out == "5 sent, 0 left\n"
    assert "waiting as the server asks" in shown.err
    assert "3 of 5 (60 %)" in shown.err
    assert len(server.received) == 6


def test_nobody_there(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot be reached is told; nothing is lost."""
    monkeypatch.setattr("usercontext.inspector.sending._PAUSES", (0.0,))
    assert main(["reports", "send", str(path), "--dsn", "http://key@127.0.0.1:9/1"]) == 1
    assert "cannot be reached now" in capsys.readouterr().err


def test_an_outbox_is_not_for_this(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reports of an outbox have their server already."""
    from usercontext.sentry import SentryClient

    path = tmp_path / "outbox.db"
    client = SentryClient("http://key@127.0.0.1:9/1", outbox=path)
    client.capture_message("x")
    client.close(10.0)
    assert main(["reports", "send", str(path), "--dsn", "http://key@127.0.0.1:9/1"]) == 2
    assert "is an outbox" in capsys.readouterr().err
