"""Values that must not be seen, found in any text, however they are encoded there; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from usercontext.privacy.secret_names import FILTERED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["KnownValues", "replaced_texts"]

#: A shorter value stands in texts by chance.
MIN_LENGTH = 6
_MAX_VALUES = 128
_MAX_LENGTH = 8192
_MAX_DEPTH = 32
_PLAIN = re.compile(r"[A-Za-z0-9]{3,}")

# What a text could be rid of without a loss; values like these say nothing of anybody.
_COMMON = frozenset({"[Filtered]", "application/json", "no-cache", "bearer", "string", "cookie"})


class KnownValues:
    """Values that are replaced wherever they stand.

    Args:
        values: what must not be seen; what is shorter than six characters is left alone.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[str]) -> None:
        # The longest first: of a value that another one begins with nothing is left over.
        self._values: tuple[str, ...] = tuple(sorted(_kept(values), key=len, reverse=True))

    def __bool__(self) -> bool:
        return bool(self._values)

    def without(self, text: str) -> str:
        """Return a text with "[Filtered]" in the place of each of the values."""
        for value in self._values:
            if _may_hold(text, value):
                for spelling in sorted({*_spellings(value)}, key=len, reverse=True):
                    text = text.replace(spelling, FILTERED)
        return text


def _may_hold(text: str, value: str) -> bool:
    """Return whether a value may stand in a text; no spelling changes letters and digits."""
    if value in text:
        return True
    plain = _PLAIN.search(value)
    return plain is None or (plain[0] != value and plain[0] in text)


def _kept(values: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for value in values:
        stripped = value.strip()
        if len(stripped) < MIN_LENGTH or stripped in seen or stripped in _COMMON:
            continue
        seen.add(stripped)
        yield stripped[:_MAX_LENGTH]
        if len(seen) >= _MAX_VALUES:
            return


def _spellings(value: str) -> Iterator[str]:
    """Yield a value as it stands in plain text, URLs, JSON and `repr()`."""
    yield value
    if value.isalnum() and value.isascii():
        return
    from json import dumps
    from urllib.parse import quote, quote_plus

    plain = value.encode("utf-8", "surrogatepass")
    for quoted in (quote(plain), quote(plain, safe=""), quote_plus(plain)):
        yield quoted
        yield _lower_escapes(quoted)
    yield from (dumps(value)[1:-1], dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1])
    if "&" in value or "<" in value or '"' in value:
        from html import escape

        yield escape(value)


def _lower_escapes(quoted: str) -> str:
    """Return a quoted text with its escapes in small letters, as some programs write them."""
    first, *rest = quoted.split("%")
    return "%".join([first, *(one[:2].lower() + one[2:] for one in rest)])


def replaced_texts(value: Any, replace: Callable[[str], str], depth: int = 0) -> Any:
    """Return a JSON value with what a function makes of each text; itself where none changes."""
    if isinstance(value, str):
        return replace(value)
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, dict):
        new = {
            replace(name) if isinstance(name, str) else name: replaced_texts(
                one, replace, depth + 1
            )
            for name, one in value.items()
        }
        same = all(a is b for a, b in zip(new.values(), value.values(), strict=False))
        return value if same and list(new) == list(value) else new
    if isinstance(value, (list, tuple)):
        items = [replaced_texts(one, replace, depth + 1) for one in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    return value
