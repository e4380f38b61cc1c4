"""What is easily missed where Sentry's own SDK, or its DSN, is in the same process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import warn_once
from usercontext.exceptions import InvalidDsnError
from usercontext.sentry.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["notice_reported_twice", "notice_unused_dsn"]

_UNUSED_DSN = (
    "init() was given no DSN and reports nothing itself, and SENTRY_DSN is set: that variable is "
    "left to sentry-sdk, beside which every error would be reported twice; write "
    "init(clients=[SentrySdkClient()]) to name the users of its reports, or "
    "init(dsn=os.environ['SENTRY_DSN']) to report without it"
)
_REPORTED_TWICE = (
    "sentry-sdk and init() both report to project %s at %s, so every error arrives there twice: "
    "leave the DSN out of init() and write init(clients=[SentrySdkClient()]), or do without "
    "sentry_sdk.init()"
)


def notice_unused_dsn(clients: Iterable[object]) -> None:
    """Say once that SENTRY_DSN is not read, where nobody else seems to use it."""
    is_served = any(type(client).__name__ == "SentrySdkClient" for client in clients)
    if os.environ.get("SENTRY_DSN") and not is_served:
        warn_once("SENTRY_DSN unused", _UNUSED_DSN)


def notice_reported_twice(dsn: str) -> None:
    """Say once that sentry-sdk reports to the same project of the same server."""
    theirs = _dsn_of_sdk()
    if theirs is None:
        return
    try:
        ours, other = Dsn(dsn), Dsn(theirs)
    except InvalidDsnError:
        return
    if (ours.place, ours.project) == (other.place, other.project):
        warn_once("reported twice", _REPORTED_TWICE, ours.project, ours.place)


def _dsn_of_sdk() -> str | None:
    """Return the DSN of the SDK's client, where the app has imported and set it up."""
    sdk: Any = sys.modules.get("sentry_sdk")
    try:
        client = sdk.get_client()
        dsn = client.dsn if client.is_active() else None
    except Exception:  # noqa: BLE001 - not imported, or an SDK of another shape
        return None
    return dsn if isinstance(dsn, str) else None
