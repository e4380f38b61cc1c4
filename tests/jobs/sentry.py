"""sentry-sdk beside us in a worker: what it would send is noted, as our own reports are."""

from __future__ import annotations

from typing import Any

from sentry_sdk.transport import Transport

from tests.jobs.notes import store

__all__ = ["options"]


class Noting(Transport):
    """Notes whom each event and transaction names."""

    def capture_envelope(self, envelope: Any) -> None:
        """Take one envelope."""
        for item in envelope.items:
            event: Any = item.get_event() or item.get_transaction_event()
            if event is None:
                continue
            values = (event.get("exception") or {}).get("values")
            label = values[-1]["value"] if values else event.get("transaction")
            user = event.get("user") or {}
            with store() as client:
                client.rpush(f"reports:sentry {label}", str(user.get("id", "nobody")))


def options() -> dict[str, Any]:
    """Return what `sentry_sdk.init` is called with."""
    return {
        "dsn": "http://key@127.0.0.1:9/1",
        "transport": Noting,
        "traces_sample_rate": 1.0,
        "default_integrations": True,
    }
