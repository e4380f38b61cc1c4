"""An event as JSON: whatever stands in it, valid, and within what a server takes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from usercontext.sentry.event.json_text import dump

if TYPE_CHECKING:
    from usercontext.types import Event

__all__ = ["MAX_BYTES", "encode_event", "plain", "safe_str"]

#: Servers refuse a larger event with 413 (Sentry's documentation, "Size Limits").
MAX_BYTES = 1 << 20

_MAX_DEPTH = 32
_MAX_INT = 1 << 63
_CUT = "…"
# The quick ones first: asking whether something is a Mapping takes long.
_MAPPINGS = (dict, Mapping)
_CONTAINERS = (dict, list, tuple, set, frozenset, Mapping)
# In characters, each item counting as 64: more items, or much more text, than an event may hold.
_ROOM = 32 * MAX_BYTES
_ROOM_OF_ITEM = 64
_FRAMES_KEPT = 10
# Longer integers come out of servers as 0, shorter ones always fit 64 bits.
_LONG_NUMBER = re.compile(rb"[:,\[]-?[0-9]{18}")
# A look for as many digits anywhere takes a sixth of the time, and nearly always finds none.
_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_DIGITS = b"0" * 18


def safe_str(value: object, limit: int) -> str:
    """Return `str(value)` of at most `limit` characters, whatever `__str__` does."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001
        return f"<unprintable {type(value).__name__}: __str__ raised {type(error).__name__}>"
    # A subclass of str may have come out; slicing one runs the app's code again.
    text = str.__str__(text) if type(text) is str else str.__getitem__(text, slice(limit + 1))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def plain(value: Any) -> Any:
    """Return a copy of `value` in which all is JSON: what else is in it becomes a string.

    What contains itself is cut where it does, and each part of a mapping at many times what an
    event may hold: small values that refer to each other can make a copy without end.
    """
    if not isinstance(value, Mapping):
        return _Copy().of(value, _MAX_DEPTH)
    # Each with room of its own, so that what one part takes is not missing in the next.
    return {_plain_key(key): _Copy(value).of(value[key], _MAX_DEPTH) for key in list(value)}


class _Copy:
    """Copies one value as JSON, as long as there is room."""

    __slots__ = ("_above", "_room")

    def __init__(self, *above: object) -> None:
        self._room = _ROOM
        self._above = {id(value) for value in above}

    def of(self, value: Any, depth: int) -> Any:
        """Return a copy of a value, which may be so many levels deep."""
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            self._room -= len(value)
            return _plain_str(value) if self._room > 0 else _CUT
        if isinstance(value, int):
            return int(value) if -_MAX_INT <= value < _MAX_INT else _long_int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, _CONTAINERS):
            return self._of_container(value, depth)
        return _plain_other(value)

    def _of_container(self, value: Any, depth: int) -> Any:
        key = id(value)
        if depth <= 0 or key in self._above:
            return _CUT
        self._above.add(key)
        try:
            return self._items(value, depth - 1)
        except Exception as error:  # noqa: BLE001  # of the app's own, or changed meanwhile
            return f"<unreadable {type(value).__name__}: {type(error).__name__}>"
        finally:
            self._above.discard(key)

    def _items(self, value: Any, depth: int) -> Any:
        items = list(value)
        self._room -= _ROOM_OF_ITEM * len(items)
        if self._room <= 0:
            return _CUT
        if isinstance(value, _MAPPINGS):
            return {self._key(key): self.of(value[key], depth) for key in items}
        return [self.of(item, depth) for item in items]

    def _key(self, key: object) -> str:
        text = _plain_key(key)
        self._room -= len(text)
        return text


def _plain_str(text: str) -> str:
    """Return a string that UTF-8 can hold: a lone surrogate becomes a question mark."""
    if text.isascii() and type(text) is str:
        return text
    return str.encode(text, "utf-8", "replace").decode("utf-8")


def _plain_key(key: object) -> str:
    return _plain_str(key) if isinstance(key, str) else _plain_str(safe_str(key, 256))


def _long_int(value: int) -> str:
    # str() of an integer of more than 4,300 digits raises ValueError.
    return str(value) if value.bit_length() <= 1024 else f"<int of {value.bit_length()} bits>"


def _plain_other(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:1024]).decode("utf-8", "replace")
    return _plain_str(safe_str(value, 1024))


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
