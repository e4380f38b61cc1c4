"""sentry-sdk beside us in a worker: what it would send is noted, as our own reports are."""

from __future__ import annotations

from typing import Any

import sentry_sdk
from sentry_sdk.transport import Transport

from tests.jobs.notes import configure, store
from usercontext.clients.sentry_sdk import SentrySdkClient

__all__ = ["start"]


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


def start(*integrations: Any) -> None:
    """Start sentry-sdk, and have it named the user beside our own reports.

    Args:
        integrations: those that it does not enable by itself.
    """
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Noting,
        traces_sample_rate=1.0,
        integrations=integrations,
    )
    configure(clients=[SentrySdkClient()])
