"""The last steps of an event before its transport: sampling, `before_send`, scrubbing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from usercontext.diagnostics import failure, warn_once
from usercontext.sentry.delivery.transport import QueuedTransport
from usercontext.sentry.event.builder import SDK
from usercontext.sentry.event.draft import Draft, snapshot
from usercontext.sentry.event.payload import plain
from usercontext.sentry.event.size import estimate_draft
from usercontext.sentry.sampling import identity_of, tell_limited
from usercontext.user import AUTO_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from usercontext.sentry.delivery.transport import Transport
    from usercontext.sentry.sampling import Sampling, UserLimit
    from usercontext.types import Event

__all__ = ["Outgoing"]


class Outgoing:
    """Takes events to a transport; each one that is dropped on the way is counted there.

    Args:
        transport: takes the finished events.
        sampling: which events are sent.
        limit: how many events of one user are.
        before_send: the app's own last look at an event.
    """

    def __init__(
        self,
        transport: Transport,
        sampling: Sampling,
        limit: UserLimit | None,
        before_send: Callable[[Event], object] | None,
    ) -> None:
        self.transport: Transport = transport
        self._sampling = sampling
        self._limit = limit
        #: Whether `admits` is to be asked, of each event, before it is built.
        self.asks_for_user: bool = limit is not None or sampling.is_by_user
        self._before_send = before_send
        # A queue of ours takes what its worker finishes; the app's own transport takes events.
        self._queue = transport if isinstance(transport, QueuedTransport) else None

    def takes_drafts(self) -> bool:
        """Return whether parts of an event may be made later: nobody is to see it before."""
        return self._queue is not None and self._before_send is None

    def admits(self, user: Mapping[str, Any] | None) -> bool:
        """Return whether this user's event may be built; one that may not is counted."""
        identity = identity_of(user)
        if not self._sampling.keeps(identity):
            self.transport.discard("sample_rate")
            return False
        # What finds no room is counted as that, and not as one of the user's.
        if self._limit is None or identity is None or not self.transport.has_room():
            return True
        if self._limit.admits(identity):
            return True
        tell_limited()
        self.transport.discard("max_per_user")
        return False

    def is_wanted(self) -> bool:
        """Return whether an event is to be built: tested first, as building costs most."""
        if not self.asks_for_user and not self._sampling.keeps():
            self.transport.discard("sample_rate")
            return False
        if not self.transport.has_room():
            self.transport.discard("queue_overflow")
            return False
        return True

    def send(self, event: Event, scrub: Callable[[Event], Event] | None) -> str | None:
        """Hand an event over and return its id, or None if it was dropped."""
        event_id: str = event["event_id"]
        finish = partial(_finished, scrub=scrub, event_id=event_id)
        if isinstance(event, Draft) and self._queue is not None:
            event.last = partial(_finished_copy, finish) if scrub is not None else finish
            return event_id if self._queue.submit_weighed(event, estimate_draft(event)) else None
        if self._before_send is not None:
            changed = _changed(event, self._before_send)
            if changed is None:
                self.discard("before_send")
                return None
            taken = None if self._queue is None else snapshot(changed, finish)
            if self._queue is not None and taken is not None:
                return event_id if self._queue.submit_weighed(taken, taken.weight) else None
            event = changed
        if self._before_send is not None or scrub is not None:
            # What scrubbing saw is what is sent: no object whose text it did not see, and
            # nothing that the app still holds and may change.
            event = plain(event)
        finished = finish(event)
        if finished is None:
            self.discard("event_processor")
            return None
        return event_id if self.transport.submit(finished) else None

    def discard(self, reason: str) -> None:
        """Count an event that was dropped, whatever the transport does."""
        try:
            self.transport.discard(reason)
        except Exception:  # noqa: BLE001
            failure("discard", "usercontext could not count a report that it dropped")


def _finished(
    event: Event, *, scrub: Callable[[Event], Event] | None, event_id: str
) -> Event | None:
    """Return the event as it is sent, scrubbed; None if that failed."""
    if scrub is not None:
        scrubbed = _scrubbed(event, scrub)
        if scrubbed is None:
            return None
        event = scrubbed
    event["sdk"] = {**SDK, "settings": {"infer_ip": _infer_ip(event)}}
    # Whatever `before_send` made of it: the id that is returned is the one that is sent.
    event["event_id"] = event_id
    return event


def _finished_copy(finish: Callable[[Event], Event | None], event: Event) -> Event | None:
    return finish(plain(event))


def _changed(event: Event, before_send: Callable[[Event], object]) -> Event | None:
    """Return what the app's `before_send` made of the event; None drops it."""
    try:
        changed = before_send(event)
    except Exception:  # noqa: BLE001
        # Redaction may be half done: better no report than one that tells too much.
        failure("before_send", "before_send raised, so the report was dropped")
        return None
    if changed is None or isinstance(changed, dict):
        return changed
    warn_once(
        "result of before_send",
        "before_send must return the event or None, not %s: the report was dropped",
        type(changed).__name__,
    )
    return None


def _scrubbed(event: Event, scrub: Callable[[Event], Event]) -> Event | None:
    try:
        return scrub(event)
    except Exception:  # noqa: BLE001
        failure("scrubbing", "a report could not be scrubbed and was dropped")
        return None


def _infer_ip(event: Event) -> str:
    """Return `auto` only where the app itself asked the server for the address."""
    user = event.get("user")
    return "auto" if isinstance(user, dict) and user.get("ip_address") == AUTO_ADDRESS else "never"
