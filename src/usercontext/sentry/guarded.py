"""The one place where building and sending a report fails without harm to the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import failure
from usercontext.sentry.delivery.own_work import in_own_work, own_work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.sentry.outgoing import Outgoing
    from usercontext.types import Event

__all__ = ["Guarded"]

_MAX_TIMEOUT = 86_400.0


class Guarded:
    """Builds and sends reports: what fails is said once, counted, and raises nothing.

    Args:
        outgoing: takes the events; None where nothing is to be reported.
    """

    def __init__(self, outgoing: Outgoing | None) -> None:
        self._outgoing = outgoing

    def build(self, build: Callable[[], Event]) -> Event | None:
        """Return a new event; None if it is not wanted, or while another is built or sent."""
        if self._outgoing is None or in_own_work():
            return None
        with own_work:
            try:
                return build() if self._outgoing.is_wanted() else None
            except Exception:  # noqa: BLE001
                failure("event", "usercontext could not build a report and dropped it")
                self._outgoing.discard("internal_sdk_error")
                return None

    def send(self, event: Event, scrub: Callable[[Event], Event] | None) -> str | None:
        """Hand an event over and return its id, or None if it was dropped."""
        if self._outgoing is None:
            return None
        with own_work:
            try:
                return self._outgoing.send(event, scrub)
            except Exception:  # noqa: BLE001
                failure("submit", "usercontext could not hand over a report")
                self._outgoing.discard("internal_sdk_error")
                return None

    def admits(self, user: Mapping[str, Any] | None) -> bool:
        """Return whether a report of a user's fields is to be built."""
        if self._outgoing is None or in_own_work():
            return False
        with own_work:
            try:
                return self._outgoing.admits(user)
            except Exception:  # noqa: BLE001
                failure("sampling", "usercontext could not ask whether a report is wanted")
                return True

    def discard(self, reason: str) -> None:
        """Count a report that was built, and that could not be completed."""
        if self._outgoing is not None:
            self._outgoing.discard(reason)

    def flush(self, timeout: float) -> bool:
        """Wait until everything submitted before is dealt with; return whether it was in time."""
        return self._outgoing is None or _wait(self._outgoing.transport.flush, timeout)

    def close(self, timeout: float) -> bool:
        """Flush, then stop for good; return whether everything was in time."""
        return self._outgoing is None or _wait(self._outgoing.transport.close, timeout)

    def stats(self) -> dict[str, Any]:
        """Return what the transport has counted."""
        if self._outgoing is None:
            return {"captured": 0, "sent": 0, "queued": 0, "discarded": {}}
        return self._outgoing.transport.stats()


def _wait(method: Callable[[float], bool], timeout: float) -> bool:
    """Call `flush` or `close` with a timeout that a lock can take; False if it fails."""
    try:
        return method(min(max(0.0, float(timeout)), _MAX_TIMEOUT))
    except Exception:  # noqa: BLE001
        failure("flush", "usercontext could not flush its reports")
        return False
