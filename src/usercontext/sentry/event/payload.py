"""An event as JSON: whatever stands in it, valid, and within what a server takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from usercontext.extra_values import Limits, bounded, kind_of, name_of, safe_str, valid_text
from usercontext.sentry.event.json_text import dump

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = ["EVENT", "MAX_BYTES", "encode_event", "plain"]

#: Servers refuse a larger event with 413 (Sentry's documentation, "Size Limits").
MAX_BYTES = 1 << 20

_FRAMES_KEPT = 10
# Longer integers come out of servers as 0, shorter ones always fit 64 bits.
_LONG_NUMBER = re.compile(rb"[:,\[]-?[0-9]{18}")
# A look for as many digits anywhere takes a sixth of the time, and nearly always finds none.
_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_DIGITS = b"0" * 18


def _text_of(value: Any) -> str:
    """Return what an event shows of a value that JSON has no word for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:1024]).decode("utf-8", "replace")
    return safe_str(value, 1024)


def _unreadable(value: Any, error: Exception) -> str:
    return f"<unreadable {kind_of(value)}: {kind_of(error)}>"


#: In characters, each item counting as 60 more: more items, or much more text, than an event may
#: hold.
EVENT = Limits(
    depth=32,
    size=32 * MAX_BYTES,
    each=60,
    cut="…",
    mappings=lambda value: isinstance(value, Mapping),
    weigh=len,
    unusable=_text_of,
    unreadable=_unreadable,
)


def plain(value: Any) -> Any:
    """Return a copy of `value` in which all is JSON: what else is in it becomes a string.

    What contains itself is cut where it does, and each part of a mapping at many times what an
    event may hold: small values that refer to each other can make a copy without end.
    """
    if not isinstance(value, Mapping):
        return bounded(value, EVENT)
    # Each with room of its own, so that what one part takes is not missing in the next.
    return {valid_text(name_of(key, EVENT)): bounded(value[key], EVENT) for key in list(value)}


def encode_event(event: Event) -> bytes | None:
    """Return the event's JSON, or None if it is above `MAX_BYTES` even after shrinking.

    What is trimmed, step by step until the rest fits: local variables, source lines around the
    failing one, frames in the middle, extra. The event itself is left as it is.
    """
    payload = _encode(event)
    if len(payload) <= MAX_BYTES:
        return payload
    event = plain(event)
    for trim in (_trim_locals, _trim_source, _trim_frames, _trim_extra):
        trim(event)
        payload = _encode(event)
        if len(payload) <= MAX_BYTES:
            return payload
    return None


def _encode(event: Event) -> bytes:
    try:
        payload = dump(event)
    except (TypeError, ValueError, RecursionError, RuntimeError):
        # Not JSON, circular, or changed by the app meanwhile. UnicodeEncodeError is a ValueError.
        return dump(plain(event))
    return dump(plain(event)) if _has_long_number(payload) else payload


def _has_long_number(payload: bytes) -> bool:
    if _LONG_DIGITS not in payload.translate(_DIGITS):
        return False
    return _LONG_NUMBER.search(payload) is not None


def _stacktraces(event: Event) -> Iterator[dict[str, Any]]:
    for exception in (event.get("exception") or {}).get("values") or ():
        if exception.get("stacktrace"):
            yield exception["stacktrace"]


def _frames(event: Event) -> Iterator[dict[str, Any]]:
    for stacktrace in _stacktraces(event):
        yield from stacktrace.get("frames") or ()


def _trim_locals(event: Event) -> None:
    for frame in _frames(event):
        frame.pop("vars", None)


def _trim_source(event: Event) -> None:
    for frame in _frames(event):
        frame.pop("pre_context", None)
        frame.pop("post_context", None)


def _trim_frames(event: Event) -> None:
    half = _FRAMES_KEPT // 2
    for stacktrace in _stacktraces(event):
        frames = stacktrace.get("frames") or []
        if len(frames) > _FRAMES_KEPT:
            stacktrace["frames"] = [*frames[:half], *frames[-half:]]


def _trim_extra(event: Event) -> None:
    for key in ("extra", "breadcrumbs", "modules"):
        event.pop(key, None)
    if isinstance(event.get("request"), dict):
        event["request"].pop("data", None)
