"""Bounded copies of data that a client sent, with secrets and hidden addresses filtered; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from usercontext.privacy.secret_names import FILTERED, is_secret

__all__ = ["copied"]

_MAX_DEPTH = 6
_MAX_ITEMS = 100
_MAX_TEXT = 2048
_MAX_TOTAL = 32 * 1024
_MAX_PARSED = 64 * 1024


def copied(value: object, *, hides: Callable[[str], bool]) -> Any:
    """Copy a request's data as plain JSON values, each cut marked with "...".

    Values under secret names, and texts that `hides` is true of, become "[Filtered]". A text
    that is a form or JSON is read as such first, so that its secrets are found.
    """
    return _Copier(hides).copy(_parsed(value), 0)


def _parsed(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[: _MAX_PARSED + 1]).decode("utf-8", "replace")
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_PARSED:
        # Half of a document cannot be parsed, so its secrets could not be found.
        return FILTERED
    return _from_json(value) if value.lstrip()[:1] in ("{", "[") else _from_form(value)


def _from_json(text: str) -> object:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return FILTERED


def _from_form(text: str) -> object:
    if "=" not in text:
        return text
    from urllib.parse import parse_qsl

    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_ITEMS))
    except ValueError:
        return FILTERED


class _Copier:
    """Copies one value, within one budget."""

    __slots__ = ("hides", "room")

    def __init__(self, hides: Callable[[str], bool]) -> None:
        self.hides = hides
        self.room = _MAX_TOTAL

    def copy(self, value: object, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, (int, float)):
            return self._number(value)
        if depth >= _MAX_DEPTH or self.room <= 0:
            return "..."
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"<{len(value)} bytes>"
        return self._other(value)

    def _text(self, text: str) -> str:
        self.room -= min(len(text), _MAX_TEXT)
        if self.room <= 0:
            return "..."
        if self.hides(text[:_MAX_PARSED]):
            return FILTERED
        return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."

    def _number(self, number: float) -> Any:
        self.room -= 8
        # An integer may be as long as the client likes, and JSON has no NaN or infinity.
        if isinstance(number, int):
            return number if -(2**63) <= number < 2**64 else "..."
        return number if number - number == 0 else str(number)

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for at, (key, value) in enumerate(mapping.items()):
            if at >= _MAX_ITEMS or self.room <= 0:
                copy["..."] = "..."
                break
            name = self._text(key if isinstance(key, str) else str(key))[:256]
            copy[name] = FILTERED if is_secret(name) else self.copy(value, depth + 1)
        return copy

    def _items(self, items: Any, depth: int) -> list[Any]:
        copy: list[Any] = []
        for item in items:
            if len(copy) >= _MAX_ITEMS or self.room <= 0:
                copy.append("...")
                break
            copy.append(self.copy(item, depth + 1))
        return copy

    def _other(self, value: object) -> str:
        # A model's own text may hold anything; that of these few is their value.
        if type(value).__module__ in ("datetime", "decimal", "uuid"):
            return self._text(str(value))
        return f"<{type(value).__name__}>"
