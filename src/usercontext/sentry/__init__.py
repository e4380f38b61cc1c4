"""The built-in reporting client: the Sentry protocol over HTTP, or an SQLite file.

    client = SentryClient("https://key@sentry.example/1")
    client = SentryClient("sqlite:///reports.db")

`usercontext.init(dsn)` makes one and joins it with the users of requests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usercontext.sentry.client import SentryClient
    from usercontext.sentry.delivery.reading import read_reports
    from usercontext.sentry.delivery.transport import Transport
    from usercontext.sentry.dsn import Dsn
    from usercontext.sentry.event.payload import encode_event

__all__ = ["Dsn", "SentryClient", "Transport", "encode_event", "read_reports"]

# Who reads a file needs nothing of what sends: each is loaded when it is asked for.
_HOMES = {
    "Dsn": "dsn",
    "SentryClient": "client",
    "Transport": "delivery.transport",
    "encode_event": "event.payload",
    "read_reports": "delivery.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
