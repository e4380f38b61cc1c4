"""What holds events until their server has decided about them: a file, or an engine that is shared.

`OutboxDestination` writes into it, and a `Forwarder` sends what it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from usercontext.types import Event

__all__ = ["Holding"]


class Holding(Protocol):
    """One process's hold of an outbox, for one server."""

    @property
    def place(self) -> object:
        """Where it is, for the log; without any password."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What its methods raise when it cannot be used."""

    @property
    def vanished_as(self) -> str | None:
        """How an event counts that somebody else has taken out; None: as sent."""

    @property
    def waits_for_limits(self) -> bool:
        """Whether events wait here while the server wants to hear nothing."""

    def keep(self, events: Iterable[tuple[Event, bytes]]) -> tuple[list[bool], list[str]]:
        """Write events with their JSON; return which are new, and the ids of what made room."""

    def mend(self, error: Exception) -> bool:
        """Mend what raised an error; return whether to write once more."""

    def next(self, limit: int) -> list[tuple[str, bytes]]:
        """Return the ids and payloads of the oldest events that are ours to send."""

    def remove(self, event_ids: Iterable[str]) -> None:
        """Forget events, as their end is known."""

    def give_back(self) -> None:
        """Let others send what `next` returned and `remove` was not told of."""

    def renew(self) -> list[str]:
        """Say that this process lives; return the ids of what was too old, and is deleted."""

    def adopt(self) -> int:
        """Take over what a process that died was to send; return how many events."""

    def waiting(self) -> int:
        """Return how many events are ours to send, or to adopt."""

    def is_waiting(self) -> bool:
        """Return whether there is any event for this server."""

    def vanished(self, event_ids: list[str]) -> list[str]:
        """Return which of some events are not to be sent any more."""

    def paused(self) -> float:
        """Return for how many seconds the server wants to hear nothing, as others have heard."""

    def pause(self, seconds: float) -> None:
        """Tell others for how long the server wants to hear nothing."""

    def failed(self) -> None:
        """Say once that it cannot be used, by the error that is being handled."""

    def release(self) -> None:
        """Leave what is left to whoever comes next."""

    def close(self) -> None:
        """Close what is open."""

    def in_a_hurry(self, deadline: float) -> AbstractContextManager[None]:
        """Let this thread wait in a block until then alone, of `monotonic()`."""

    def before_fork(self) -> None:
        """Put away what must not be open when this process forks."""

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's."""
