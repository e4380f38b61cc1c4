"""The bytes that travel."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.sentry.server import parse_envelope
from usercontext import __version__
from usercontext.sentry.delivery.envelope import auth_header, build_envelope, split_discarded

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
    """What was discarded is an item of its own."""
    lines = build_envelope("ab" * 16, b"{}", dsn=DSN, discarded={"before_send": 2}).split(b"\n")
    report = json.loads(lines[4])

    assert json.loads(lines[3]) == {"type": "client_report", "length": len(lines[4])}
    assert report["discarded_events"] == [
        {"reason": "before_send", "category": "error", "quantity": 2}
    ]
    assert isinstance(report["timestamp"], float)


def sent_report(discarded: dict[str, int]) -> dict[str, int]:
    """Return what the client report of an envelope says, which is within 4 KiB."""
    envelope = build_envelope("ab" * 16, b"{}", dsn=DSN, discarded=discarded)
    _, (_, (header, report)) = parse_envelope(envelope)
    assert header["length"] <= 4096
    return {event["reason"]: event["quantity"] for event in report["discarded_events"]}


REASONS = st.dictionaries(
    st.text(min_size=1, max_size=100), st.integers(1, 2**63), min_size=1, max_size=300
)


@given(REASONS)
def test_large_client_report(discarded: dict[str, int]) -> None:
    """What does not fit into a client report of 4 KiB is told by the next ones, whole."""
    told: dict[str, int] = {}
    left = dict(discarded)
    while left:
        fitting, left = split_discarded(left)
        told |= sent_report(fitting)

    assert told == discarded


def test_usual_client_report() -> None:
    """The protocol's own reasons fit into one, whatever their number."""
    reasons = ["queue_overflow", "ratelimit_backoff", "network_error", "send_error", "before_send",
               "event_processor", "sample_rate", "internal_sdk_error"]  # fmt: skip

    assert split_discarded(dict.fromkeys(reasons, 2**63))[1] == {}


def test_auth_header() -> None:
    """The server learns protocol, client and public key."""
    assert auth_header("key") == (
        f"Sentry sentry_version=7, sentry_client=usercontext/{__version__}, sentry_key=key"
    )
