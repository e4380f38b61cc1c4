"""How an event travels: an envelope around its JSON; rules without I/O.

Sentry's developer documentation, "Envelopes": a header line, then for each item a header line,
that many bytes and a newline.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from usercontext.sentry.event.builder import SDK

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_REPORT_BYTES", "USER_AGENT", "auth_header", "build_envelope", "split_discarded"]

#: Servers take no larger client report (Sentry's documentation, "Size Limits").
MAX_REPORT_BYTES = 4096
# At most what it takes without any discarded events.
_REPORT_BYTES = 64

#: How this client calls itself to servers.
USER_AGENT = f"usercontext/{SDK['version']}"


def auth_header(public_key: str) -> str:
    """Return the value of `X-Sentry-Auth`, which never holds a secret."""
    return f"Sentry sentry_version=7, sentry_client={USER_AGENT}, sentry_key={public_key}"


def build_envelope(
    event_id: str, payload: bytes, *, dsn: str, discarded: Mapping[str, int] | None = None
) -> bytes:
    """Return an envelope around one event's JSON, to be sent now.

    Args:
        event_id: the id in the payload; servers look for it in the envelope's header.
        payload: the event as JSON.
        dsn: the DSN without its secret.
        discarded: how many events were dropped since the last report of it, by reason.
    """
    now = datetime.now(UTC)
    header = {
        "event_id": event_id,
        "sent_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "dsn": dsn,
        "sdk": SDK,
    }
    parts = [_line(header), *_item("event", payload)]
    if discarded:
        parts += _item("client_report", _client_report(discarded))
    return b"".join(parts)


def split_discarded(discarded: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return what fits into one client report, and what is left for the next."""
    room = MAX_REPORT_BYTES - _REPORT_BYTES
    fitting: dict[str, int] = {}
    for reason, quantity in discarded.items():
        room -= len(_dump(_discarded_events(reason, quantity))) + len(b",")
        if room >= 0:
            fitting[reason] = quantity
    left = {reason: quantity for reason, quantity in discarded.items() if reason not in fitting}
    return fitting, left


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _line(value: Mapping[str, Any]) -> bytes:
    return _dump(value) + b"\n"


def _item(kind: str, payload: bytes) -> tuple[bytes, bytes, bytes]:
    return _line({"type": kind, "length": len(payload)}), payload, b"\n"


def _client_report(discarded: Mapping[str, int]) -> bytes:
    events = [_discarded_events(reason, quantity) for reason, quantity in discarded.items()]
    return _dump({"timestamp": round(time.time(), 3), "discarded_events": events})


def _discarded_events(reason: str, quantity: int) -> dict[str, Any]:
    return {"reason": reason, "category": "error", "quantity": quantity}
