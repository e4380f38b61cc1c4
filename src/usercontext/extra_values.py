"""Copies of the app's own values as JSON of a bounded size; pure.

What is left out ends in, or is replaced by, the mark of its limits, so that nobody takes the rest
for the whole.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from usercontext.exceptions import InvalidUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "CUT",
    "EXTRAS",
    "NO_JSON",
    "Copier",
    "Limits",
    "bounded",
    "bounded_extras",
    "copied",
    "is_mapping",
    "is_of",
    "kind_of",
    "name_of",
    "plain_text",
    "safe_str",
    "usable_extra",
    "valid_text",
]

#: Ends, or stands in place of, what is cut of a user's extra values.
CUT = "...[cut]"
#: What JSON has no word for.
NO_JSON: Any = object()

# Beyond 64 bits, servers of the Sentry protocol make another number of an integer.
_MAX_BITS = 63
_SHORT = 1 << 62
# Printing an integer takes the square of its length, and past 4,300 digits Python refuses.
_MAX_PRINTED_BITS = 3300
_UNLIMITED = sys.maxsize

_SEPARATOR = len(", ")
_NAMED = len(": , ")
_MORE = len("1000000000 more")

_SIZED: Final = frozenset({type({}.items()), list, tuple})
#: The real name of a class: a metaclass may raise for its own.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


# What a value is


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


def safe_str(value: object, limit: int) -> str:
    """Return `str(value)` of at most `limit` characters, whatever `__str__` does."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001
        return f"<unprintable {kind_of(value)}: __str__ raised {kind_of(error)}>"
    # A subclass of str may have come out; slicing one runs the app's code again.
    text = str.__str__(text) if type(text) is str else str.__getitem__(text, slice(limit + 1))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def copied(value: Any) -> Any:
    """Copy a JSON value with all that is in it."""
    kind = type(value)
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    return value


def valid_text(text: str) -> str:
    """Return a text that UTF-8 can carry: instead of a lone surrogate stands U+FFFD."""
    if text.isascii():
        return text
    # Surrogates in pairs are one character to other languages.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _scalar(value: Any, cut: str) -> Any:
    """Return the JSON value of anything but a container; `NO_JSON` if there is none."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -_SHORT < value < _SHORT else _bounded_integer(value, cut)
    if is_of(value, "enum", "Enum"):
        return _enum_text(value)
    if issubclass(kind, str):
        return plain_text(value)
    if issubclass(kind, int):
        return _bounded_integer(int.__pos__(value), cut)
    if issubclass(kind, float):
        number = float.__pos__(value)
        # JSON has neither NaN nor infinity.
        return number if number - number == 0 else str(number)
    return _written(value)


def _written(value: Any) -> Any:
    """Return the text of a value that has one spelling; `NO_JSON` of any other."""
    if is_of(value, "uuid", "UUID") or is_of(value, "decimal", "Decimal"):
        return plain_text(str(value))
    if is_of(value, "datetime", "date") or is_of(value, "datetime", "time"):
        return plain_text(value.isoformat())
    return NO_JSON


def _enum_text(member: Any) -> str:
    value = member.value
    if issubclass(type(value), str):
        return plain_text(value)
    return str(value) if type(value) is int else plain_text(member.name)


def _bounded_integer(number: int, cut: str) -> int | str:
    bits = number.bit_length()
    if bits <= _MAX_BITS:
        return number
    return str(number) if bits <= _MAX_PRINTED_BITS else f"{hex(number >> (bits - 64))}{cut}"


def _json_size(text: str) -> int:
    """Return how many bytes a text takes at most as JSON in UTF-8."""
    length = len(text) if text.isascii() else len(text.encode())
    size = length + len('""') + text.count('"') + text.count("\\")
    if not text.isprintable():
        size += len(r"u0000") * sum(character < " " for character in text)
    return size


# How far a copy goes


class Limits:
    """How far a copy goes, how a cut is marked, and what becomes of what JSON has no word for.

    Args:
        depth: how many containers may lie in each other.
        size: how much there may be in all, as `weigh` counts it.
        cut: the mark of a cut.
        keys: how many keys a mapping may have, the mark of a cut included.
        items: how many items a sequence may have, likewise.
        text: how many bytes of UTF-8 a text may have, likewise.
        each: what a value counts beside its text, as each takes time and memory.
        tells_more: tell with the mark how many items are missing.
        sequences: which classes become lists.
        mappings: tells which other values have keys and values.
        weigh: returns what a text counts: by default the bytes of its JSON.
        describe: returns the text of a value, or `NO_JSON` to have what is in it copied; in place
            of the JSON value.
        unusable: returns what stands in place of a value that JSON has no word for, a key
            included; without it such a value raises `UnusableError`.
        unreadable: returns what stands in place of a container that raised this error when it was
            read; without it the error passes.
        withheld: returns what stands in place of the value under a key; None: the value itself.
        drops: leave a value out that JSON has no word for, with its key, note it in `dropped`, and
            keep the others.
    """

    __slots__ = (
        "cut",
        "depth",
        "describe",
        "drops",
        "each",
        "items",
        "keys",
        "mappings",
        "mark",
        "sequences",
        "size",
        "tells_more",
        "text",
        "unreadable",
        "unusable",
        "weigh",
        "withheld",
    )

    def __init__(
        self,
        *,
        depth: int,
        size: int,
        cut: str,
        keys: int = _UNLIMITED,
        items: int = _UNLIMITED,
        text: int = _UNLIMITED,
        each: int = 0,
        tells_more: bool = False,
        sequences: tuple[type, ...] = (list, tuple, set, frozenset),
        mappings: Callable[[Any], bool] = is_mapping,
        weigh: Callable[[str], int] = _json_size,
        describe: Callable[[Any], Any] | None = None,
        unusable: Callable[[Any], Any] | None = None,
        unreadable: Callable[[Any, Exception], str] | None = None,
        withheld: Callable[[Any], str | None] | None = None,
        drops: bool = False,
    ) -> None:
        self.depth: int = depth
        self.size: int = size
        self.cut: str = cut
        # Each takes some room: of more than that many none would be kept.
        self.keys: int = min(keys, size)
        self.items: int = min(items, size)
        self.text: int = text
        self.each: int = each
        self.tells_more: bool = tells_more
        self.sequences: tuple[type, ...] = sequences
        self.mappings: Callable[[Any], bool] = mappings
        self.weigh: Callable[[str], int] = weigh
        self.describe: Callable[[Any], Any] | None = describe
        self.unusable: Callable[[Any], Any] | None = unusable
        self.unreadable: Callable[[Any, Exception], str] | None = unreadable
        self.withheld: Callable[[Any], str | None] | None = withheld
        self.drops: bool = drops
        more = _MORE if tells_more else 0
        #: What the mark of a cut takes at most.
        self.mark: int = _json_size(cut) + len(": true, ") + more

    def too_deep(self, container: object) -> str:
        """Return what stands in place of a container that is not copied."""
        if not self.tells_more:
            return self.cut
        return f"{{{self.cut}}}" if type(container) is dict else f"[{self.cut}]"

    def count_missing(self, copy: Any, whole: Any) -> None:
        """Say beside the mark of a cut how many items are missing."""
        if not copy:
            return
        missing = len(whole) - len(copy) + 1
        if type(copy) is dict and self.cut in copy:
            copy[self.cut] = f"{missing} more"
        elif type(copy) is list and copy[-1] is self.cut:
            copy[-1] = f"{self.cut} {missing} more"


class UnusableError(Exception):
    """A value, or the key of one, is none of JSON.

    Attributes:
        value: the value itself.
        is_key: whether it is a key.
        keys: under which it stands, the innermost first; of a key, itself first.
    """

    def __init__(self, value: object, *, is_key: bool = False) -> None:
        self.value = value
        self.is_key = is_key
        self.keys: list[Any] = []


class _FullError(Exception):
    """There is no room for another value."""


def bounded(value: Any, limits: Limits, *, shown: Callable[[str], str] | None = None) -> Any:
    """Return a copy of a value as JSON, within its limits; the value itself is only read.

    Args:
        value: anything.
        limits: how far the copy goes.
        shown: returns what is shown of a text before it is cut.
    """
    return Copier(limits, shown=shown).copy(value, limits.depth)


class Copier:
    """Copies values as long as there is room: one or, within one size, several.

    Args:
        limits: how far each copy goes.
        shown: returns what is shown of a text before it is cut.
        exact: raise where the size is reached. Otherwise every container keeps room for a mark.
    """

    __slots__ = ("_above", "_is_quick", "_limits", "_reserved", "_room", "_shown", "dropped")

    def __init__(
        self,
        limits: Limits,
        *,
        shown: Callable[[str], str] | None = None,
        exact: bool = False,
    ) -> None:
        self._limits = limits
        self._shown = shown
        #: Why values were left out.
        self.dropped: list[UnusableError] = []
        self._reserved = 0 if exact else limits.mark
        self._room = limits.size
        self._above: set[int] = set()
        #: Strings need no look at the limits.
        self._is_quick = limits.describe is None

    def copy(self, value: Any, depth: int) -> Any:
        """Return a copy of a value, so many levels deep; the mark if there is no more room."""
        try:
            return self._of(value, depth)
        except _FullError:
            return self._limits.cut

    def mapping(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        """Return a copy of what a mapping holds, in which are so many levels more."""
        limits = self._limits
        self._take(len("{}") + self._reserved + limits.each)
        first, is_cut = _first(pairs, limits.keys)
        result: dict[str, Any] = {}
        withheld, each, is_quick = limits.withheld, limits.each, self._is_quick
        for key, item in first:
            try:
                name = self._text(key if type(key) is str else name_of(key, limits), _NAMED)
                if withheld is not None and (instead := withheld(key)) is not None:
                    result[name] = self._text(instead, each)
                # Here as well as in `_of`: nearly all are texts.
                elif is_quick and type(item) is str:
                    result[name] = self._text(item, each)
                else:
                    result[name] = self._of(item, depth)
            except _FullError:
                self._give_up_unless_reserved()
                is_cut = True
                break
            except UnusableError as error:
                error.keys.append(key)
                if not limits.drops:
                    raise
                self.dropped.append(error)
        if is_cut:
            self._take(limits.mark - self._reserved)
            result[limits.cut] = True
        return result

    def _of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        limits = self._limits
        if not self._is_quick:
            scalar = limits.describe(value)  # type: ignore[misc]
        elif kind is str:
            return self._text(value, limits.each)
        elif kind is dict or kind is list:
            return self._container(value, depth)
        else:
            scalar = _scalar(value, limits.cut)
        if scalar is NO_JSON:
            if issubclass(kind, limits.sequences) or limits.mappings(value):
                return self._container(value, depth)
            if limits.unusable is None:
                raise UnusableError(value)
            scalar = limits.unusable(value)
        if type(scalar) is str:
            return self._text(scalar, limits.each)
        self._take(limits.each + len(repr(scalar)))
        return scalar

    def _container(self, value: Any, depth: int) -> Any:
        limits = self._limits
        key = id(value)
        if depth <= 0 or key in self._above:
            return self._text(limits.too_deep(value), limits.each)
        self._above.add(key)
        try:
            if type(value) is dict:
                copy: Any = self.mapping(value.items(), depth - 1)
            elif issubclass(type(value), limits.sequences):
                is_set = limits.drops and issubclass(type(value), set | frozenset)
                copy = self._sequence(_in_order(value) if is_set else value, depth - 1)
            else:
                copy = self.mapping(_pairs_of(value), depth - 1)
        except (_FullError, UnusableError):
            raise
        except Exception as error:  # the app's own code, or the app changed it meanwhile
            if limits.unreadable is None:
                raise
            return self._text(limits.unreadable(value, error), limits.each)
        else:
            if limits.tells_more:
                limits.count_missing(copy, value)
            return copy
        finally:
            self._above.discard(key)

    def _sequence(self, value: Any, depth: int) -> list[Any]:
        limits = self._limits
        each, is_quick = limits.each + _SEPARATOR, self._is_quick
        self._take(len("[]") + self._reserved + limits.each)
        items, is_cut = _first(value, limits.items)
        if (
            not is_cut
            and limits.withheld is not None
            and len(items) == 2
            and isinstance(items[0], str | bytes)
        ):
            # A name and its value, as lists of headers and of a form's fields have them.
            instead = limits.withheld(items[0])
            if instead is not None:
                return [self._of(items[0], depth), self._text(instead, each)]
        result: list[Any] = []
        for item in items:
            try:
                if is_quick and type(item) is str:
                    result.append(self._text(item, each))
                    continue
                self._take(_SEPARATOR)
                result.append(self._of(item, depth))
            except _FullError:
                self._give_up_unless_reserved()
                is_cut = True
                break
            except UnusableError as error:
                if not limits.drops:
                    raise
                self.dropped.append(error)
        if is_cut:
            self._take(limits.mark - self._reserved)
            result.append(limits.cut)
        return result

    def _give_up_unless_reserved(self) -> None:
        if not self._reserved:
            raise _FullError

    def _text(self, text: str, beside: int) -> str:
        """Return what is shown of a text, and take the room for it and what stands beside it."""
        limits = self._limits
        if self._shown is not None:
            text = self._shown(text)
        if len(text) > limits.text or not text.isascii():
            text = _cut_text(text, limits.text, limits.cut)
        room = self._room - beside - limits.weigh(text)
        if room < 0:
            raise _FullError
        self._room = room
        return text

    def _take(self, size: int) -> None:
        room = self._room - size
        if room < 0:
            raise _FullError
        self._room = room


def name_of(key: Any, limits: Limits) -> str:
    """Return a key as the name that it has in JSON."""
    text = _scalar(key, limits.cut) if limits.describe is None else NO_JSON
    if type(text) is int:
        text = str(text)
    if type(text) is str:
        return text
    if limits.unusable is None:
        raise UnusableError(key, is_key=True)
    return safe_str(key, 256)


def _first(values: Any, most: int) -> tuple[list[Any], bool]:
    """Return the values that are copied, in one step of C, and whether there are more."""
    if type(values) in _SIZED and len(values) <= most:
        return list(values), False
    first = list(islice(values, most + 1))
    is_cut = len(first) > most
    if is_cut:  # the mark takes a place as well
        del first[most - 1 :]
    return first, is_cut


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return what is in a set in the order of its values, or else of their texts."""
    try:
        return sorted(values)
    except Exception:  # noqa: BLE001 - values of several classes, or of the app's own
        return sorted(values, key=lambda value: (kind_of(value), safe_str(value, 256)))


def _pairs_of(mapping: Any) -> Iterable[tuple[Any, Any]]:
    if type(mapping) is dict:
        return mapping.items()
    return ((key, mapping[key]) for key in mapping.keys())  # noqa: SIM118 - rows iterate values


def _cut_text(text: str, limit: int, cut: str) -> str:
    """Cut a text to its bound, and make it one that UTF-8 can carry."""
    if limit == _UNLIMITED:
        return valid_text(text)
    head = valid_text(text[: limit + 1])
    encoded = head.encode()
    if len(encoded) <= limit:
        return head
    return encoded[: limit - len(cut.encode())].decode(errors="ignore") + cut


# A user's extra values

EXTRAS = Limits(depth=4, size=8192, cut=CUT, keys=64, text=1024, sequences=(list, tuple))
_USABLE_EXTRAS = Limits(depth=4, size=8192, cut=CUT, keys=64, text=1024, drops=True)


def bounded_extras(mapping: Any, *, fields: frozenset[str]) -> dict[str, Any]:
    """Copy a user's extra values as JSON values: 4 levels, 64 keys, 1 KiB a string, 8 KiB.

    Args:
        mapping: anything that `is_mapping` takes; only read, and never kept.
        fields: the keys that are not extras. Nor are those whose value is None.

    Raises:
        InvalidUserError: a value is none of JSON, and no datetime, Decimal, Enum or UUID.
    """
    try:
        try:
            return _extras(mapping, fields, Copier(EXTRAS, exact=True))
        except _FullError:
            # Too much: once more, with room kept in every container for the mark of a cut.
            return _extras(mapping, fields, Copier(EXTRAS))
    except UnusableError as error:
        raise InvalidUserError(_unusable_text(error)) from None


def usable_extra(key: Any, value: Any) -> tuple[Any, list[InvalidUserError]]:
    """Return what can be used of one extra value, and why some of it can not.

    A set becomes a sorted list.
    """
    copier = Copier(_USABLE_EXTRAS)
    usable = copier.mapping([(key, value)], EXTRAS.depth).get(key)
    return usable, [InvalidUserError(_unusable_text(error)) for error in copier.dropped]


def _extras(mapping: Any, fields: frozenset[str], copier: Copier) -> dict[str, Any]:
    pairs = _pairs_of(mapping)
    extras = ((key, item) for key, item in pairs if item is not None and key not in fields)
    return copier.mapping(extras, EXTRAS.depth)


def _unusable_text(error: UnusableError) -> str:
    kind = kind_of(error.value)
    owner = "an extra"
    if len(error.keys) > error.is_key:
        name = _scalar(error.keys[-1], CUT)
        owner = f"extra {name!r}" if type(name) is str and name.isidentifier() else owner
    else:
        owner = "the extra values"
    if error.is_key:
        return f"a key of {owner} is of type {kind}: give a string"
    return (
        f"{owner} is, or holds, a value of type {kind}: give strings, "
        "numbers, booleans, None, lists, mappings, datetimes, Decimals, Enums or UUIDs"
    )
