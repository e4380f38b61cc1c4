"""The built-in reporting client: the Sentry protocol over HTTP, or an SQLite file.

    client = SentryClient("https://key@sentry.example/1")
    client = SentryClient("sqlite:///reports.db")

`usercontext.init(dsn)` makes one and joins it with the users of requests.
"""

from __future__ import annotations

from usercontext.sentry.client import SentryClient
from usercontext.sentry.delivery.store import read_reports
from usercontext.sentry.delivery.transport import Transport
from usercontext.sentry.dsn import Dsn
from usercontext.sentry.event.payload import encode_event

__all__ = ["Dsn", "SentryClient", "Transport", "encode_event", "read_reports"]
