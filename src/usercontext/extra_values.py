"""Copies of the app's own values as JSON values of a bounded size; pure.

What is cut ends in, or is replaced by, `CUT`, so that nobody takes the rest for the whole.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import InvalidUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CUT", "bounded_extras", "copied", "is_mapping", "is_of", "kind_of", "plain_text"]

CUT = "...[cut]"

_MAX_DEPTH = 4
_MAX_KEYS = 64
_MAX_STRING = 1024  # bytes of UTF-8
_MAX_SIZE = 8192  # bytes of JSON in UTF-8

# Beyond 64 bits, servers of the Sentry protocol make another number of an integer.
_MAX_BITS = 63
# Printing an integer takes the square of its length, and past 4,300 digits Python refuses.
_MAX_PRINTED_BITS = 3300

_NO_JSON = object()

_SEPARATOR = len(", ")
_COLON = len(": ")
_CUT_SIZE = len(f'"{CUT}": true, ')

#: The real name of a class: that of a metaclass may raise.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def isfinite(number: float) -> bool:
    """Tell whether a float is neither infinite nor no number; `math` would be a module more."""
    return number - number == 0


def kind_of(value: object) -> str:
    """Name a value's class for a message, without running any code of the value's."""
    return _name_of(type(value))


def is_of(value: object, module: str, name: str) -> bool:
    """Tell whether a value is of a class, without importing that class's module.

    As long as nobody has imported a module, there are no values of its classes.
    """
    kind = getattr(sys.modules.get(module), name, None)
    # `isinstance` would ask the value's own `__class__`, which may lie or raise.
    return isinstance(kind, type) and issubclass(type(value), kind)


def is_mapping(value: object) -> bool:
    """Tell whether `dict()` would read keys of a value: mappings, and rows of databases."""
    kind = type(value)
    return hasattr(kind, "keys") and hasattr(kind, "__getitem__")


def plain_text(text: str) -> str:
    """Return the characters of a `str`, or of a subclass of it, as a plain `str`."""
    return str.__str__(text)


def copied(value: Any) -> Any:
    """Copy a JSON value with all that is in it."""
    kind = type(value)
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    return value


def bounded_extras(mapping: Any, *, fields: frozenset[str]) -> dict[str, Any]:
    """Copy a user's extra values as JSON values: 4 levels, 64 keys, 1 KiB a string, 8 KiB.

    Args:
        mapping: anything that `is_mapping` takes; only read, and never kept.
        fields: the keys that are no extras. Nor are those whose value is None.

    Raises:
        InvalidUserError: a value is none of JSON, and no datetime, Decimal, Enum or UUID.
    """
    try:
        return _Copier(reserved=0).extras(mapping, fields)
    except _FullError:
        # Too much: once more, with room kept in every container for the mark of a cut.
        return _Copier(reserved=_CUT_SIZE).extras(mapping, fields)


class _FullError(Exception):
    """There is no room for another value."""


class _Copier:
    """Copies values as long as there is room."""

    __slots__ = ("_extra", "_reserved", "_room")

    def __init__(self, *, reserved: int) -> None:
        self._extra = ""
        self._reserved = reserved
        self._room = _MAX_SIZE

    def extras(self, mapping: Any, fields: frozenset[str]) -> dict[str, Any]:
        items = _items_of(mapping)
        extras = ((key, item) for key, item in items if item is not None and key not in fields)
        return self._mapping(extras, 0)

    def _take(self, size: int) -> None:
        if size > self._room:
            raise _FullError
        self._room -= size

    def _value(self, value: Any, depth: int) -> Any:
        if type(value) is str:
            return self._text(value)
        if is_mapping(value):
            return (
                self._mapping(_items_of(value), depth) if depth <= _MAX_DEPTH else self._text(CUT)
            )
        if issubclass(type(value), (list, tuple)):
            return self._sequence(value, depth) if depth <= _MAX_DEPTH else self._text(CUT)
        scalar = _scalar(value)
        if scalar is _NO_JSON:
            raise InvalidUserError(
                f"{self._extra} is, or holds, a value of type {kind_of(value)}: give strings, "
                "numbers, booleans, None, lists, mappings, datetimes, Decimals, Enums or UUIDs"
            )
        if type(scalar) is str:
            return self._text(scalar)
        self._take(len(repr(scalar)))
        return scalar

    def _mapping(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        self._take(len("{}") + self._reserved)
        first = list(islice(items, _MAX_KEYS + 1))
        is_cut = len(first) > _MAX_KEYS
        result: dict[str, Any] = {}
        for key, item in first[: _MAX_KEYS - is_cut]:
            try:
                name = self._key(key, depth)
                result[name] = self._value(item, depth + 1)
            except _FullError:
                self._give_up_unless_reserved()
                is_cut = True
                break
        if is_cut:
            self._take(_CUT_SIZE - self._reserved)
            result[CUT] = True
        return result

    def _sequence(self, items: Iterable[Any], depth: int) -> list[Any]:
        self._take(len("[]") + self._reserved)
        result: list[Any] = []
        for item in items:
            try:
                self._take(_SEPARATOR)
                result.append(self._value(item, depth + 1))
            except _FullError:
                self._give_up_unless_reserved()
                result.append(CUT)
                break
        return result

    def _give_up_unless_reserved(self) -> None:
        if not self._reserved:
            raise _FullError

    def _key(self, key: Any, depth: int) -> str:
        text = _scalar(key)
        if type(text) is int:
            text = str(text)
        if type(text) is not str:
            owner = f"a key of {self._extra}" if depth else "a key of the extra values"
            raise InvalidUserError(f"{owner} is of type {kind_of(key)}: give a string")
        if depth == 0:
            self._extra = f"extra {text!r}" if text.isidentifier() else "an extra"
        self._take(_COLON + _SEPARATOR)
        return self._text(text)

    def _text(self, text: str) -> str:
        text = _cut_text(text)
        self._take(_json_size(text))
        return text


def _items_of(mapping: Any) -> Iterable[tuple[Any, Any]]:
    if type(mapping) is dict:
        return mapping.items()
    return ((key, mapping[key]) for key in mapping.keys())  # noqa: SIM118 - rows iterate values


def _scalar(value: Any) -> Any:
    """Return the JSON value of anything but a container; `_NO_JSON` if there is none."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if is_of(value, "enum", "Enum"):
        return _enum_text(value)
    if issubclass(kind, str):
        return plain_text(value)
    if issubclass(kind, int):
        return _bounded_integer(int.__pos__(value))
    if issubclass(kind, float):
        number = float.__pos__(value)
        # JSON has neither NaN nor infinity.
        return number if number - number == 0 else str(number)
    if is_of(value, "uuid", "UUID") or is_of(value, "decimal", "Decimal"):
        return plain_text(str(value))
    if is_of(value, "datetime", "date") or is_of(value, "datetime", "time"):
        return plain_text(value.isoformat())
    return _NO_JSON


def _enum_text(member: Any) -> str:
    value = member.value
    if issubclass(type(value), str):
        return plain_text(value)
    return str(value) if type(value) is int else plain_text(member.name)


def _bounded_integer(number: int) -> int | str:
    bits = number.bit_length()
    if bits <= _MAX_BITS:
        return number
    return str(number) if bits <= _MAX_PRINTED_BITS else f"{hex(number >> (bits - 64))}{CUT}"


def _cut_text(text: str) -> str:
    """Cut a text to its bound, and make it one that UTF-8 can carry."""
    if len(text) <= _MAX_STRING and text.isascii():
        return text
    head = text[: _MAX_STRING + 1]
    if head.isascii():
        encoded = head.encode()
    else:
        # Surrogates in pairs are one character to other languages; a lone one is none.
        head = head.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        encoded = head.encode()
    if len(encoded) <= _MAX_STRING:
        return head
    return encoded[: _MAX_STRING - len(CUT)].decode(errors="ignore") + CUT


def _json_size(text: str) -> int:
    """Return how many bytes a text takes at most as JSON in UTF-8."""
    length = len(text) if text.isascii() else len(text.encode())
    size = length + len('""') + text.count('"') + text.count("\\")
    if not text.isprintable():
        size += len(r"u0000") * sum(character < " " for character in text)
    return size
