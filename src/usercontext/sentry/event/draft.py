"""Events that a request hands over unfinished: the worker does the rest, out of what was copied."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any, Protocol

from usercontext.sentry.event.payload import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.types import Event

__all__ = ["Draft", "Snapshot", "Unfinished", "snapshot"]

_SNAPSHOT_BYTES = 2048


class Unfinished(Protocol):
    """What waits in a queue in an event's place."""

    def finished(self) -> Event | None:
        """Return the event; None if it is to be dropped."""


class Draft(dict[str, Any]):
    """An event of which some parts are made later.

    Attributes:
        weight: about how much memory those parts will take.
        last: makes the event of a draft that has all of its parts.
    """

    __slots__ = ("_steps", "last", "weight")

    last: Callable[[Event], Event | None]

    def __init__(self) -> None:
        super().__init__()
        self.weight: int = 0
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def later(self, step: Callable[..., object], *arguments: Any, weight: int = 0) -> None:
        """Have a part made by `step(event, *arguments)`; what it is given, nobody changes."""
        self._steps.append((step, arguments))
        self.weight += weight

    def finished(self) -> Event | None:
        """Make what is to be made yet, and return the event; None if it is to be dropped."""
        steps, self._steps = self._steps, []
        event = dict(self)
        for step, arguments in steps:
            step(event, *arguments)
        return self.last(event)


class Snapshot:
    """An event as it was when the app had changed it.

    Args:
        text: the event, as marshal writes it.
        last: makes the event of a plain copy.
    """

    __slots__ = ("_last", "_text", "weight")

    def __init__(self, text: bytes, last: Callable[[Event], Event | None]) -> None:
        self._text = text
        self._last = last
        self.weight: int = _SNAPSHOT_BYTES + len(text)

    def finished(self) -> Event | None:
        """Return the event; None if it is to be dropped."""
        return self._last(plain(marshal.loads(self._text)))  # noqa: S302 (our own text)


def snapshot(event: Event, last: Callable[[Event], Event | None]) -> Snapshot | None:
    """Return what an event is now; None if marshal does not know all that is in it.

    It takes a fifteenth of the time of a plain copy, which the worker makes.
    """
    try:
        return Snapshot(marshal.dumps(event), last)
    except ValueError:
        return None
