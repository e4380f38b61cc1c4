"""What a queue's events go to: a server, a file, or a server by way of a file."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from usercontext.diagnostics import warn_once
from usercontext.sentry.event.payload import encode_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.types import Event

__all__ = ["KEPT", "Destination", "encoded"]

#: What `deliver` returns of an event that is safe, although its end is not known yet.
KEPT = "kept"


class Destination:
    """Takes events, one after the other or several at once.

    All but `deliver` may stay as it is here.
    """

    def resume(self) -> None:
        """Go on with what an earlier process has left."""

    def deliver(self, event: Event, more: Callable[[], Event | None]) -> list[str | None]:
        """Send or keep an event, and as many of those that wait as is good.

        Args:
            event: the oldest event.
            more: takes the next one out of the queue, None if there is none; whatever is taken
                is to be dealt with.

        Returns:
            Of each event in turn None, KEPT, or the reason why it was discarded.
        """
        raise NotImplementedError

    def deliver_last(self, event: Event) -> str | None:
        """Do what can be done at once for an event that is still queued at the end."""
        del event
        return "network_error"

    def settle(self, deadline: float) -> bool:
        """Do until then, of `monotonic()`, what a flush asks for once the queue is empty."""
        del deadline
        return True

    def in_a_hurry(self, deadline: float) -> AbstractContextManager[None]:
        """Let this thread wait in a block for files and other threads until then alone."""
        del deadline
        return nullcontext()

    def stop(self, deadline: float) -> None:
        """End what goes on beside `deliver`; asked once, and waited for until then."""

    def release(self) -> None:
        """Close what `deliver` has opened, as it is not called any more."""

    def before_fork(self) -> None:
        """Put away what must not be open when this process forks."""

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""

    def after_fork_in_child(self) -> None:
        """Forget, without closing, what the parent process has opened."""


def encoded(event: Event) -> bytes | None:
    """Return an event's JSON; None, which the log says once, if it is too large for servers."""
    payload = encode_event(event)
    if payload is None:
        warn_once("event size", "usercontext dropped a report of more than 1 MiB")
    return payload
