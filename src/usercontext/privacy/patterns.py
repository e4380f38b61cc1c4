"""What a scrubbing rule looks for within a text: Relay's patterns, and an app's; pure.

Names and meanings follow Sentry's documentation, "Advanced Data Scrubbing".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from usercontext.address.search import find_addresses, may_hold_ipv6
from usercontext.exceptions import ConfigurationError
from usercontext.privacy.secret_names import FILTERED, is_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["PATTERNS", "Pattern", "of_regex", "of_route"]

#: Where something stands, and the name that `replace` leaves there.
Found: TypeAlias = "tuple[int, int, str]"


class Pattern(NamedTuple):
    """What is looked for in texts.

    Attributes:
        find: yields what is to be hidden in a text, from the left.
        is_about_key: told a name, says whether the value under it is to be hidden as a whole.
    """

    find: Callable[[str], Iterable[Found]]
    is_about_key: Callable[[str], bool] | None = None


def _named(name: str, find: Callable[[str], Iterable[tuple[int, int]]]) -> Pattern:
    return Pattern(lambda text: ((start, end, name) for start, end in find(text)))


def _matching(name: str, pattern: str, flags: int = 0) -> Pattern:
    """Return what finds a regular expression: of one with a group, that group."""
    regex = re.compile(pattern, flags)
    group = 1 if regex.groups else 0
    return _named(name, lambda text: (match.span(group) for match in regex.finditer(text)))


# -- addresses and e-mail --

_AT = re.compile(r"@|%40")
_BEFORE_AT = re.compile(r"[^\s@<>()\[\]\"',;:\\&?=/|]+\Z")
_AFTER_AT = re.compile(r"\w(?:[\w.-]*\w)?")


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    if text.count(".") < 3 and not may_hold_ipv6(text):
        return
    for start, end, _ in find_addresses(text):
        yield start, end


def _emails(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for match in _AT.finditer(text):
        # Looked for from the sign outwards: from the left, a long text would be read for ever.
        low = max(end, match.start() - 256)
        before = _BEFORE_AT.search(text[low : match.start()])
        after = _AFTER_AT.match(text, match.end())
        if before and after:
            yield low + before.start(), after.end()
            end = after.end()


# -- numbers that check themselves --

_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d)*+(?![\w])", re.ASCII)
_CARD_LENGTHS = range(19, 11, -1)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for run in _DIGITS.finditer(text):
        places = [at for at in range(*run.span()) if text[at].isdecimal()]
        at = 0
        while at < len(places):
            length = _length_of_card(text, places[at:]) if _begins(text, places, at) else 0
            if length:
                yield places[at], places[at + length - 1] + 1
            at += length or 1


def _begins(text: str, places: list[int], at: int) -> bool:
    return at == 0 or not text[places[at] - 1].isdecimal()


def _length_of_card(text: str, places: list[int]) -> int:
    """Return how many of the digits are a card's number (ISO/IEC 7812); 0: none."""
    digits = [int(text[at]) for at in places[: _CARD_LENGTHS[0]]]
    if not 2 <= digits[0] <= 6:  # of banks, not of airlines, health and the like
        return 0
    for length in _CARD_LENGTHS:
        is_whole = length == len(places) or (length < len(places) and _begins(text, places, length))
        if length <= len(digits) and is_whole and _is_luhn(digits[:length]):
            return length
    return 0


def _is_luhn(digits: list[int]) -> bool:
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


# By country, in characters (SWIFT's registry of IBANs).
_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in re.findall(
        r"\w+",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 "
        "DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 "
        "IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 "
        "MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
        "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9])+", re.ASCII)


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        places = [at for at in range(*match.span()) if text[at].isalnum()]
        if length is None or len(places) < length:
            continue
        start, end = places[0], places[length - 1] + 1
        if text[end : end + 1].isalnum():
            continue
        written = text[start:end]
        if (written.isalnum() and written.isupper()) or _is_iban(written):
            yield start, end


def _is_iban(written: str) -> bool:
    """Return whether the check digits are right (ISO 13616); asked where the form proves less."""
    plain = "".join(filter(str.isalnum, written))
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


# -- passwords --

_PASSWORD = re.compile(
    r"(?i)password|passwd|secret|api_?key|auth|credentials|mysql_pwd|private_?key|token|bearer"
)


def _passwords(text: str) -> Iterator[Found]:
    if _PASSWORD.search(text):
        yield 0, len(text), "[password]"


_HEX = r"[0-9A-Fa-f]"

#: By their names in Relay's rules.
PATTERNS: dict[str, Pattern | None] = {
    "anything": None,
    "bearer": _matching("[token]", r"(?i)\bbearer\s+([\w.~+/=\-]+)"),
    "creditcard": _named("[creditcard]", _cards),
    "email": _named("[email]", _emails),
    "iban": _named("[iban]", _ibans),
    "imei": _matching("[imei]", r"(?<![\w-])\d{2}[ -]?\d{6}[ -]?\d{6}[ -]?\d{1,2}(?![\w-])"),
    "ip": _named("[ip]", _addresses),
    "mac": _matching(
        "[mac]",
        rf"(?<![0-9A-Za-z])(?:(?:{_HEX}{{2}}[:-]){{5}}{_HEX}{{2}}|(?:{_HEX}{{4}}\.){{2}}{_HEX}{{4}})"
        r"(?![0-9A-Za-z])",
    ),
    "password": Pattern(_passwords, is_secret),
    "pemkey": _matching(
        "[pemkey]",
        r"(?s)-----BEGIN [A-Z ]*(?:PRIVATE|PUBLIC) KEY-----\s*(\S.*?)\s*(?:-----END|\Z)",
    ),
    "urlauth": _matching("[auth]", r"://([^\s/?#@]+(?:@[^\s/?#@]+)*)@"),
    "userpath": _matching(
        "[user]",
        r"(?i)(?:[\\/]+(?:users|home|documents and settings)[\\/]+)([^\\/\s\"'<>:]+)",
    ),
    "usssn": _matching("[us-ssn]", r"(?<![\w-])\d{3}[ -]\d{2}[ -]\d{4}(?![\w-])"),
    "uuid": _matching(
        "[uuid]",
        rf"(?<![0-9A-Za-z])(?:{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}|{_HEX}{{32}})"
        r"(?![0-9A-Za-z])",
    ),
}


# -- an app's own --


def of_regex(regex: re.Pattern[str]) -> Pattern:
    """Return what finds an app's expression: of one with groups, these; else all that matches.

    Raises:
        ConfigurationError: it is about bytes, or matches nothing at all.
    """
    if not isinstance(regex.pattern, str):
        raise ConfigurationError(f"scrub: {regex!r:.80} is about bytes: compile it from a str")
    if regex.match(""):
        raise ConfigurationError(
            f"scrub: {regex.pattern!r:.80} matches an empty text, so it would be found everywhere: "
            "write '+' for '*' where it repeats something"
        )
    groups = range(1, regex.groups + 1) or (0,)

    def find(text: str) -> Iterator[Found]:
        for match in regex.finditer(text):
            # Of groups that lie in each other the outer one comes first.
            spans = sorted((match.span(group) for group in groups), key=_outermost)
            yield from ((start, end, FILTERED) for start, end in spans if start < end)

    return Pattern(find)


def _outermost(span: tuple[int, int]) -> tuple[int, int]:
    return span[0], -span[1]


_PLACE = re.compile(r"<(?:[^<>:]*:)?(\w+)>|\{(\w+)(?::[^{}]*)?\}")
_WHOLE_PATHS = re.compile(r"<path:|:path\}")
_SLASH = "(?:/|%2[Ff])"
_SEGMENT = r"((?:(?!%2[Ff])[^/?#\s\"'<>{}&])+)"
_SEGMENTS = r"([^?#\s\"'<>{}&]+)"


def of_route(route: str) -> Pattern:
    """Return what finds the parts of paths that stand in a route's places, `/reset/<token>`.

    Raises:
        ConfigurationError: the route has no such place.
    """
    names: list[str] = []
    regex: list[str] = []
    at = 0
    for place in _PLACE.finditer(route):
        regex += (_literal(route[at : place.start()]), _segment(place[0]))
        names.append(place[1] or place[2])
        at = place.end()
    regex.append(_literal(route[at:]))
    if not names:
        raise ConfigurationError(
            f"scrub: the path {route!r:.80} has no segment that is to be hidden: "
            "write it in angle brackets, '/reset/<token>'"
        )
    found = re.compile("".join(regex))

    def find(text: str) -> Iterator[Found]:
        for match in found.finditer(text):
            yield from ((*match.span(at), f"[{name}]") for at, name in enumerate(names, 1))

    return Pattern(find)


def _literal(text: str) -> str:
    return _SLASH.join(re.escape(part) for part in text.split("/"))


def _segment(place: str) -> str:
    return _SEGMENTS if _WHOLE_PATHS.search(place) else _SEGMENT
