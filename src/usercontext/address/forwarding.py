"""The grammar of forwarding headers: what stands in `X-Forwarded-For` and `Forwarded` (RFC 7239).

A value is read from the right, since only its last entries were written by proxies of ours, and
no further than the rules need: 64 entries of 128 characters, whatever its length.
"""

from __future__ import annotations

from usercontext.address.spelling import canonical_address

__all__ = [
    "MAX_ENTRY",
    "MAX_TEXT",
    "TOKEN",
    "UNSPECIFIED",
    "address_of_element",
    "bare_address",
    "elements",
    "entries",
    "without_last_port",
]

_MAX_ENTRIES = 64
#: Characters of an entry that can be one; what is cut longer ends the reading.
MAX_ENTRY = 128
#: As much of a header as its last 64 entries and their commas can fill.
MAX_TEXT = _MAX_ENTRIES * (MAX_ENTRY + 1)

#: What a name may be made of (RFC 9110, section 5.6.2).
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# RFC 7239 wants addresses with a colon or bracket quoted; proxies in the wild leave them bare.
_BARE_VALUE = TOKEN | frozenset(":[]")
_ZONE = frozenset("._~-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
#: Stands for no address in particular.
UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104

# -- lists of entries, from the right --

# Each returns texts of which at most 64 are to be read, from the right, none of more than 128
# characters: a longer one stands where reading must end.

_STOP = "?" * (MAX_ENTRY + 1)


def entries(text: str) -> list[str]:
    """Cut at commas. X-Forwarded-For has no quoting: a quote must not swallow entries."""
    if len(text) > MAX_TEXT:
        text = text[-MAX_TEXT:]
    found = text.rsplit(",", _MAX_ENTRIES)
    if len(found) > _MAX_ENTRIES:
        found[0] = _STOP
    return found


def elements(text: str) -> list[str]:
    """Cut at commas outside quoted strings (RFC 7239, section 4)."""
    text = text[-MAX_TEXT:]
    found: list[str] = []
    end = len(text)
    while end >= 0 and len(found) < _MAX_ENTRIES:
        start = _element_start(text, end)
        if start is None:
            break
        found.append(text[start:end])
        end = start - 1
    if end >= 0:
        found.append(_STOP)
    found.reverse()
    return found


def _element_start(text: str, end: int) -> int | None:
    """Return where the element begins that ends here; None if it is too long.

    Which quotes make a string is told from the right: there the part that a proxy of ours wrote
    is read first, and what a client wrote before it, an open quote included, cannot reach in.
    """
    start = end - MAX_ENTRY - 1
    low = max(start, 0)
    at = end
    while True:
        comma = text.rfind(",", low, at)
        quote = text.rfind('"', low, at)
        if quote < comma or quote < 0:
            break
        at = quote
        if _closes(text, quote, end):
            opening = _opening(text, quote, low)
            if opening is None and low > 0:
                return None  # it may open before the part that is looked at
            at = quote if opening is None or opening < 0 else opening
    return None if comma < 0 <= start else comma + 1


def _closes(text: str, quote: int, end: int) -> bool:
    """Return whether this quote can close a string: nothing but a separator follows it."""
    rest = text[quote + 1 : end].lstrip(" \t")
    return (not rest or rest[0] == ";") and not _is_escaped(text, quote)


def _opening(text: str, closing: int, low: int) -> int | None:
    """Return where the string opens that closes here; -1 if none does, None if it is not seen."""
    at = closing
    while True:
        at = text.rfind('"', low, at)
        if at < 0:
            return None
        if not _is_escaped(text, at):
            return at if text[at - 1 : at] == "=" else -1


def _is_escaped(text: str, at: int) -> bool:
    before = text[max(at - MAX_ENTRY, 0) : at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


# -- one entry --


def address_of_element(element: str) -> str | None:
    """Return the address of the `for` of an element of `Forwarded` (RFC 7239, section 4)."""
    if len(element) > MAX_ENTRY:
        return None
    node: str | None = None
    names: set[str] = set()
    at = 0
    while at < len(element):
        if element[at] in "; \t":
            at += 1
            continue
        name, value, at = _pair(element, at)
        if value is None or name in names:
            return None  # junk, or twice the same: which one is the proxy's?
        names.add(name)
        if name == "for":
            node = value
    return None if node is None else bare_address(node, obfuscated_port=True)


def _pair(element: str, at: int) -> tuple[str, str | None, int]:
    """Read `name=value` from a place on; the value is None unless it is well formed."""
    equals = element.find("=", at)
    name = element[at:equals]
    if equals < 0 or not name or not TOKEN.issuperset(name):
        return "", None, at
    if element[equals + 1 : equals + 2] == '"':
        value, end = _quoted(element, equals + 2)
    else:
        end = element.find(";", equals)
        end = len(element) if end < 0 else end
        bare = element[equals + 1 : end].rstrip(" \t")
        value = bare if bare and _BARE_VALUE.issuperset(bare) else None
    rest = element[end:].lstrip(" \t")
    return name.lower(), value if not rest or rest[0] == ";" else None, end


def _quoted(element: str, at: int) -> tuple[str | None, int]:
    """Read a quoted string (RFC 9110, section 5.6.4) up to its closing quote."""
    characters: list[str] = []
    while at < len(element):
        character = element[at]
        if character == '"':
            return "".join(characters), at + 1
        if character == "\\":
            at += 1
            character = element[at : at + 1]
        characters.append(character)
        at += 1
    return None, at


def bare_address(text: str, *, obfuscated_port: bool = False) -> str | None:
    """Return the canonical address of `address`, `address:port`, `[address]` or `[address]:port`.

    A zone is dropped; an unspecified address is none.
    """
    if len(text) > MAX_ENTRY:
        return None
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or (port and not _is_port(port, obfuscated_port)):
            return None
    elif text.count(":") == 1:
        text, port = text.split(":")
        if not _is_port(":" + port, obfuscated_port):
            return None
    if "%" in text:
        text, _, zone = text.partition("%")
        if ":" not in text or not 1 <= len(zone) <= 64 or not _ZONE.issuperset(zone):
            return None
    address = canonical_address(text)
    return None if address in UNSPECIFIED else address


def _is_port(text: str, obfuscated: bool) -> bool:
    digits = text[1:]
    if text[0] != ":" or not digits:
        return False
    if obfuscated and digits[0] == "_":
        return len(digits) > 1 and _ZONE.issuperset(digits) and "~" not in digits
    # isdigit() alone accepts "²".
    return digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535


def without_last_port(value: str) -> str:
    """Cut the port off `ip:port`, where an IPv6 address has no brackets."""
    address, _, port = value.rpartition(":")
    return address if _is_port(":" + port, obfuscated=False) else ""
