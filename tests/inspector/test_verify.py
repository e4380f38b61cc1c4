"""`usercontext verify`: step by step, what answered and what to mend."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.sentry.server import Answer, SentryServer, serving
from usercontext.cli import main
from usercontext.sentry import read_reports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("httpx")


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[SentryServer]:
    """A server that takes envelopes."""
    with serving() as server:
        yield server


def verify(capsys: pytest.CaptureFixture[str], *dsn: str) -> tuple[int, str]:
    """Return the status and what is said."""
    status = main(["verify", *dsn])
    return status, capsys.readouterr().out


def test_it_arrives(server: SentryServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is told, the event arrives, and the status is 0; no key is shown."""
    status, told = verify(capsys, server.dsn)

    assert status == 0
    assert [line.split()[1] for line in told.splitlines()] == ["DSN", "DNS", "connection", "event"]
    assert server.events[0]["event_id"] in told
    assert "key" not in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (400, "did not understand"),
        (401, "copy the DSN once more"),
        (403, "revoked"),
        (404, "check the end of the DSN"),
        (413, "too large"),
        (429, "quota"),
        (302, "redirects are not followed"),
        (500, "look at its log"),
        (502, "look at its log"),
    ],
)
def test_answers(
    server: SentryServer, capsys: pytest.CaptureFixture[str], status: int, mend: str
) -> None:
    """What a server answers is told, with what to mend, and the status is 1."""
    server.answers.append(Answer(status))
    ended, told = verify(capsys, server.dsn)

    assert (ended, f"FAIL  event       the server answered {status}" in told) == (1, True)
    assert mend in told


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """A port where nothing listens is told."""
    status, told = verify(capsys, "http://key@127.0.0.1:9/1")

    assert status == 1
    assert "port 9: refused\n" in told
    assert "check the port" in told


def test_no_such_host(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that cannot be looked up is told."""
    status, told = verify(capsys, "https://key@no-such-host.invalid/1")

    assert status == 1
    assert "FAIL  DNS" in told


def test_plain_http_at_an_https_dsn(
    server: SentryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server without TLS at an https DSN is told."""
    status, told = verify(capsys, server.dsn.replace("http://", "https://"))

    assert status == 1
    assert "write http:// in the DSN" in told


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[int]:
    """The port of a server with a certificate that nobody has signed."""
    files = (str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem"))
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout {} -out {}"
    )
    with suppress(FileNotFoundError):
        subprocess.run(make.format(*files).split(), check=True, capture_output=True)
    if not (tmp_path / "certificate.pem").exists():
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])

    def serve() -> None:
        with suppress(OSError):
            context.wrap_socket(listening.accept()[0], server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_a_certificate_that_is_not_trusted(
    untrusted: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A certificate of an own authority is told, with the option for it."""
    status, told = verify(capsys, f"https://key@localhost:{untrusted}/1")

    assert status == 1
    assert "FAIL  TLS" in told
    assert "ca_certs=" in told


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The DSN of a file is tried as well."""
    path = tmp_path / "reports.db"
    status, told = verify(capsys, f"sqlite:///{path}")

    assert status == 0
    assert next(read_reports(path))["event_id"] in told


def test_the_dsn_of_the_environment(
    server: SentryServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a DSN that of USERCONTEXT_DSN is tried; without that, it says so."""
    monkeypatch.setenv("USERCONTEXT_DSN", server.dsn)
    assert verify(capsys)[0] == 0
    monkeypatch.delenv("USERCONTEXT_DSN")
    assert main(["verify"]) == 2


def test_no_dsn(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not a DSN is told, with its form."""
    assert main(["verify", "sentry.example"]) == 2
    assert "write https://" in capsys.readouterr().err


def test_a_proxy(
    server: SentryServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment is named, without its password."""
    monkeypatch.setenv("http_proxy", f"http://al:secret@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    _, told = verify(capsys, "http://key@sentry.invalid/1")

    assert f"proxy       127.0.0.1:{server.server_port}" in told
    assert "secret" not in told
