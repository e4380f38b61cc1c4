"""The bytes that travel."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from usercontext import __version__
from usercontext.sentry.envelope import auth_header, build_envelope

DSN = "https://key@host/1"


def test_lines() -> None:
    """An envelope is a header, an item's header, that many bytes and a newline."""
    payload = '{"message":"ünï\\n"}'.encode()
    header, item, body, rest = build_envelope("ab" * 16, payload, dsn=DSN).split(b"\n")

    assert json.loads(header)["event_id"] == "ab" * 16
    assert json.loads(item) == {"type": "event", "length": len(payload)}
    assert body == payload
    assert rest == b""


def test_header() -> None:
    """The header names the DSN, the SDK and the time of sending."""
    header = json.loads(build_envelope("ab" * 16, b"{}", dsn=DSN).split(b"\n")[0])

    assert header["dsn"] == DSN
    assert header["sdk"] == {"name": "usercontext.python", "version": __version__}
    assert header["sent_at"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(header["sent_at"])
    assert timedelta() <= age < timedelta(minutes=1)


def test_client_report() -> None:
    """What was discarded is an item of its own, below 4 KiB."""
    lines = build_envelope("ab" * 16, b"{}", dsn=DSN, discarded={"before_send": 2}).split(b"\n")
    report = json.loads(lines[4])

    assert json.loads(lines[3]) == {"type": "client_report", "length": len(lines[4])}
    assert report["discarded_events"] == [
        {"reason": "before_send", "category": "error", "quantity": 2}
    ]
    assert isinstance(report["timestamp"], float)


def test_auth_header() -> None:
    """The server learns protocol, client and public key."""
    assert auth_header("key") == (
        f"Sentry sentry_version=7, sentry_client=usercontext/{__version__}, sentry_key=key"
    )
