"""How much memory an event takes while it waits: about, and fast, as a request waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.sentry.event.builder import CONTEXTS, FRAME_BYTES

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = ["estimate_size"]

#: About what an event takes beside what is weighed.
_EVENT_BYTES = 2048
_VALUE_BYTES = 50
#: What the client sets last; exceptions are weighed by themselves.
_SMALL_PARTS = frozenset({"timestamp", "sdk", "exception"})


def estimate_size(event: Event, enough: int) -> int:
    """Return about how many bytes an event takes.

    Args:
        event: the event.
        enough: what is more than that is not weighed to the end, nor is what is no event.
    """
    try:
        return _weight(event, enough)
    except Exception:  # noqa: BLE001
        # `before_send` made something else of it, or the app changes it on another thread.
        return enough


def _weight(event: Event, enough: int) -> int:
    weight = _EVENT_BYTES
    parts: list[Any] = []
    for key, part in event.items():
        if part.__class__ is str:
            weight += len(part)
        elif key not in _SMALL_PARTS and (key != "contexts" or part != CONTEXTS):
            parts.append(part)
    for value in (event.get("exception") or {}).get("values") or ():
        weight += _EVENT_BYTES + len(value.get("value") or "")
        frames = (value.get("stacktrace") or {}).get("frames") or ()
        weight += FRAME_BYTES * len(frames)
        parts += [frame["vars"] for frame in frames if "vars" in frame]
    return weight + _weight_of(parts, enough)


def _weight_of(parts: list[Any], enough: int) -> int:
    """Return about how much parts of an event take; what contains itself is enough."""
    weight = 0
    for value in parts:  # What is found in them is added to their end.
        weight += _VALUE_BYTES
        if isinstance(value, dict):
            for key, item in value.items():
                weight += _VALUE_BYTES + (len(key) if key.__class__ is str else 0)
                if item.__class__ is str:
                    weight += _VALUE_BYTES + len(item)
                else:
                    parts.append(item)
        elif isinstance(value, str | bytes):
            weight += len(value)
        elif isinstance(value, list | tuple):
            parts += value
        if weight > enough:
            break
    return weight
