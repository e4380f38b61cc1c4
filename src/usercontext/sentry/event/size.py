"""How much memory an event takes while it waits: about, and fast, as a request waits for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.sentry.event.builder import CONTEXTS, EVENT_BYTES, FRAME_BYTES

if TYPE_CHECKING:
    from usercontext.sentry.event.draft import Draft
    from usercontext.types import Event

__all__ = ["estimate_draft", "estimate_size"]

_VALUE_BYTES = 50
#: What else others add to a draft.
_ADDED = ("request", "tags", "extra")
#: About what a user takes, who is never more than some fields and 8 KiB of extra values.
_USER_BYTES = 1024
_USER_FIELDS = 5
_LARGE_USER_BYTES = 10_240
#: What the client sets last; exceptions are weighed by themselves.
_SMALL_PARTS = frozenset({"timestamp", "sdk", "exception"})


def estimate_size(event: Event, enough: int) -> int:
    """Return about how many bytes an event takes.

    Args:
        event: the event.
        enough: what is more than that is not weighed to the end, nor is what is not an event.
    """
    try:
        return _weight(event, enough)
    except Exception:  # noqa: BLE001
        # `before_send` made something else of it, or the app changes it on another thread.
        return enough


def estimate_draft(draft: Draft) -> int:
    """Return about how many bytes a draft will take when it is finished.

    What made it has weighed its parts, but for those that others have added.
    """
    weight = EVENT_BYTES + draft.weight
    user = draft.get("user")
    if user:
        weight += _USER_BYTES if len(user) <= _USER_FIELDS else _LARGE_USER_BYTES
    parts = [draft[key] for key in _ADDED if draft.get(key)]
    return weight + _weight_of(parts, sys.maxsize) if parts else weight


def _weight(event: Event, enough: int) -> int:
    weight = EVENT_BYTES
    parts: list[Any] = []
    for key, part in event.items():
        if part.__class__ is str:
            weight += len(part)
        elif key not in _SMALL_PARTS and (key != "contexts" or part != CONTEXTS):
            parts.append(part)
    for value in (event.get("exception") or {}).get("values") or ():
        weight += EVENT_BYTES + len(value.get("value") or "")
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
