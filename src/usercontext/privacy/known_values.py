"""Values that must not be seen, found in any text, however they are encoded there; pure."""

from __future__ import annotations

import re
from functools import lru_cache
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
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8}")
# What may stand before and behind in the same text of base64, in a URL, too.
_NEAR = "(?:[\\w+/=-]|%(?:25)*(?:2[bBfF]|3[dD])){0,120}"
_URL_SAFE = str.maketrans("+/", "-_")

# What a text could be rid of without a loss; values like these say nothing of anybody.
_COMMON = frozenset({"[Filtered]", "application/json", "no-cache", "bearer", "string", "cookie"})


class KnownValues:
    """Values that are replaced wherever they stand.

    Args:
        values: what must not be seen; what is shorter than six characters is left alone.
    """

    __slots__ = ("_encoded", "_values")

    def __init__(self, values: Iterable[str]) -> None:
        # The longest first: of a value that another one begins with nothing is left over.
        self._values: tuple[str, ...] = tuple(sorted(_kept(values), key=len, reverse=True))
        self._encoded: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self._values)

    def without(self, text: str) -> str:
        """Return a text with "[Filtered]" in the place of each of the values."""
        for value in self._values:
            if _may_hold(text, value):
                text = text.replace(value, FILTERED)
                if not (value.isalnum() and value.isascii()):
                    text = _spelled(value).sub(FILTERED, text)
        if _BASE64.search(text) is None:
            return text
        if self._encoded is None:
            self._encoded = tuple(one for value in self._values for one in _base64_of(value))
        for encoded in self._encoded:
            if _may_hold(text, encoded):
                spelled = _spelled(encoded).pattern
                text = re.sub(f"{_NEAR}{spelled}{_NEAR}", FILTERED, text)
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


# -- as it is written in other texts --


def _spelled(value: str) -> re.Pattern[str]:
    """Return what finds a value in plain text, URLs, JSON, HTML and `repr()`, or several of them.

    Each character may be written in a way of its own: programs differ in which they spare.
    """
    return re.compile("".join(_letter(c) if not _is_plain(c) else c for c in value))


def _is_plain(character: str) -> bool:
    return character.isascii() and character.isalnum()


# The signs with which escapes begin and end, encoded once more themselves.
_BACKSLASH = r"(?:\\|%(?:25)*5[cC])"
_SEMICOLON = "(?:;|%(?:25)*3[bB])"
_AMPERSAND = f"(?:&|%(?:25)*26)(?:amp{_SEMICOLON})*"
_NUMBER_SIGN = "(?:#|%(?:25)*23)"


@lru_cache(512)
def _letter(character: str) -> str:
    number = ord(character)
    plain = character.encode("utf-8", "surrogatepass")
    utf16 = character.encode("utf-16-be", "surrogatepass")
    units = [utf16[at : at + 2].hex() for at in range(0, len(utf16), 2)]
    ways = [
        re.escape(character),
        "".join(f"%(?:25)*{_hex(byte)}" for byte in plain),
        "".join(f"{_BACKSLASH}+x{_hex(byte)}" for byte in plain),
        "".join(f"{_BACKSLASH}+u{_any_case(unit)}" for unit in units),
        f"{_BACKSLASH}+U{_any_case(f'{number:08x}')}",
        f"{_AMPERSAND}{_NUMBER_SIGN}(?:0*{number}|[xX]0*{_any_case(f'{number:x}')}){_SEMICOLON}",
    ]
    if number < 256:
        ways += (f"{_BACKSLASH}+x{_hex(number)}", f"%(?:25)*{_hex(number)}")
    if number > 127:
        # UTF-8 that was read as Latin-1, as headers are, or as ASCII.
        ways += (re.escape(plain.decode("latin-1")), "\N{REPLACEMENT CHARACTER}+", r"\?+")
    if character in _ENTITIES:
        ways.append(f"{_AMPERSAND}{_ENTITIES[character]}{_SEMICOLON}")
    if character in _ESCAPES:
        ways.append(f"{_BACKSLASH}+{_ESCAPES[character]}")
    if character == "\\":
        ways.append(f"{_BACKSLASH}+")
    if character == " ":
        ways += (r"\+", "%(?:25)*2[bB]")
    if character == "&":
        ways.append(_AMPERSAND)
    # Within quotes a backslash may stand before it.
    return f"{_BACKSLASH}*(?:{'|'.join(ways)})"


_ENTITIES = {'"': "quot", "'": "apos", "<": "lt", ">": "gt"}
_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


def _hex(byte: int) -> str:
    return _any_case(f"{byte:02x}")


def _any_case(digits: str) -> str:
    return "".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in digits)


def _base64_of(value: str) -> Iterator[str]:
    """Yield what base64 makes of a value, whatever stands before and behind it.

    A character of it holds six bits: those that a neighbour has a part in are left out.
    """
    from base64 import b64encode

    plain = value.encode("utf-8", "surrogatepass")
    for before in range(3):
        encoded = b64encode(bytes(before) + plain).decode()
        whole = (before + len(plain)) * 8 // 6
        core = encoded[(before * 8 + 5) // 6 : whole]
        if len(core) >= MIN_LENGTH:
            yield core
            if "+" in core or "/" in core:
                yield core.translate(_URL_SAFE)


def replaced_texts(
    value: Any,
    replace: Callable[[str], str],
    depth: int = 0,
    *,
    names: Callable[[str], str] | None = None,
) -> Any:
    """Return a JSON value with what a function makes of each text; itself where none changes.

    Names of dicts are replaced likewise, or by a function of their own.
    """
    if isinstance(value, str):
        return replace(value)
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, dict):
        rename = names or replace
        new = {
            rename(name) if isinstance(name, str) else name: replaced_texts(
                one, replace, depth + 1, names=names
            )
            for name, one in value.items()
        }
        same = all(a is b for a, b in zip(new.values(), value.values(), strict=False))
        return value if same and list(new) == list(value) else new
    if isinstance(value, (list, tuple)):
        items = [replaced_texts(one, replace, depth + 1, names=names) for one in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    return value
