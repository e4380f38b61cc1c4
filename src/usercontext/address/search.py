"""Addresses inside other text: where they stand, and whether given ones are among them; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usercontext.address.spelling import canonical_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["HiddenAddresses", "find_addresses", "may_hold_ipv6"]

_IPV4 = re.compile(r"(?<!\d)\d{1,3}(?:\.\d{1,3}){3}(?!\d)", re.ASCII)
# Anything that might be IPv6, judged below: a pattern of the whole grammar would be slower, and
# no shorter than this is bounded on hostile text. URLs encode the colon, some of them twice.
_IPV6_RUN = re.compile(
    r"(?<![0-9A-Fa-f.])[0-9A-Fa-f.]*+(?::|%(?:25)?3[Aa])(?:[0-9A-Fa-f:.]|%(?:25)?3[Aa])*", re.ASCII
)
_COLON = re.compile(r"%(?:25)?3[Aa]", re.ASCII)
_ANY_COLON = re.compile(r":|%(?:25)?3[Aa]", re.ASCII)
# Not `_`, by which programs glue an address to a name.
_WORD = re.compile(r"[^\W_]")

_MAX_ADDRESSES = 64


def find_addresses(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and canonical spelling of each address in a text, from the left.

    Ports, brackets, zones and prefixes stay outside. Octets with leading zeros are read as
    decimal: some program may have meant an address by them.
    """
    end = 0
    for start, stop, address in sorted((*_find_ipv6(text), *_find_ipv4(text))):
        if start >= end:  # the IPv4 end of an IPv6 address is found by both
            yield start, stop, address
            end = stop


def _find_ipv4(text: str) -> Iterator[tuple[int, int, str]]:
    if "." not in text:
        return
    for match in _IPV4.finditer(text):
        octets = [int(octet) for octet in match[0].split(".")]
        if max(octets) <= 255:
            yield match.start(), match.end(), ".".join(map(str, octets))


def _find_ipv6(text: str) -> Iterator[tuple[int, int, str]]:
    if not may_hold_ipv6(text):
        return
    for match in _IPV6_RUN.finditer(text):
        if match[0].count(":") + match[0].count("%") < 2:
            continue
        found = _ipv6_of_run(text, match.start(), match.end())
        if found is not None:
            yield found


def may_hold_ipv6(text: str) -> bool:
    """Return whether a text has colons enough, plain or encoded; quick."""
    return text.count(":") >= 2 or ("%" in text and len(_COLON.findall(text)) >= 2)


def _ipv6_of_run(text: str, start: int, end: int) -> tuple[int, int, str] | None:
    """Return the address in a run of digits and colons, with where it stands.

    What stands at an end may belong to a word or be a port: "rate:2001:db8::1" and the like.
    """
    groups, places = _groups(text, start, end)
    first = 1 if places[0][0] == start and _WORD.match(text[start - 1 : start]) else 0
    last = 1 if places[-1][1] == end and _WORD.match(text[end : end + 1]) else 0
    for lead, trail in ((first, last), (first, last + 1), (first + 1, last), (1, 1)):
        kept = groups[lead : len(groups) - trail]
        if (lead or trail) and not _is_telling(kept):
            continue
        address = canonical_address(":".join(kept))
        if address is not None and address != "::":
            return places[lead][0], places[len(groups) - trail - 1][1], address
    return None


def _groups(text: str, start: int, end: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Return what stands between the colons of a run, and where; a single colon at an end goes."""
    groups: list[str] = []
    places: list[tuple[int, int]] = []
    at = start
    for stop, following in (*_colons(text, start, end), (end, end)):
        groups.append(text[at:stop])
        places.append((at, stop))
        at = following
    if len(groups) > 2 and groups[0] == "" != groups[1]:
        del groups[0], places[0]
    while len(groups) > 2 and groups[-1].strip(".") == "" and groups[-2] != "":
        del groups[-1], places[-1]
    tail = groups[-1].rstrip(".")
    places[-1] = (places[-1][0], places[-1][1] - len(groups[-1]) + len(tail))
    groups[-1] = tail
    return groups, places


def _colons(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _ANY_COLON.finditer(text, start, end):
        yield match.span()


def _is_telling(groups: list[str]) -> bool:
    """Return whether a part of a run is more than a slice or a scope of C++, as `a::b` is."""
    if len(groups) < 3 or groups[0] == "":
        return False
    return any(any(c.isdigit() for c in group) for group in groups)


class HiddenAddresses:
    """Addresses that must not be seen, recognised in any spelling.

    Args:
        gather: yields the texts that hold them, such as a peer's or a forwarding header's; called
            when a text is met for the first time that may hold an address at all.
        spared: a text whose address may be seen after all.
    """

    __slots__ = ("_gather", "_spared", "_spellings", "_values")

    def __init__(
        self, gather: Callable[[], Iterable[str]] | None = None, *, spared: str = ""
    ) -> None:
        self._gather = gather
        self._spared = spared
        self._values: set[str] = set()
        self._spellings: set[str] = set()

    def is_in(self, text: str) -> bool:
        """Return whether a text holds one of the addresses."""
        if text.count(".") < 3 and text.count("-") < 3 and not may_hold_ipv6(text):
            return False  # no spelling has fewer
        if self._gather is not None:
            self._add(self._gather())
            self._gather = None  # not before: half of the addresses would be no protection
        if not self._values:
            return False
        folded = text.lower()
        if any(spelling in folded for spelling in self._spellings):
            return True
        return any(address in self._values for _, _, address in find_addresses(text))

    def without(self, text: str, replacement: str) -> str:
        """Return a text with something else in the place of each of the addresses."""
        if not self.is_in(text):
            return text
        shown: list[str] = []
        at = 0
        for start, end, address in find_addresses(text):
            if address in self._values:
                shown += (text[at:start], replacement)
                at = end
        text = "".join((*shown, text[at:]))
        for spelling in self._spellings:  # within a longer word
            if spelling in text.lower():
                text = re.sub(re.escape(spelling), lambda _: replacement, text, flags=re.IGNORECASE)
        return text

    def _add(self, texts: Iterable[str]) -> None:
        spared = {address for _, _, address in find_addresses(self._spared)}
        for text in texts:
            # The last ones are those that proxies of ours wrote, whatever a client wrote before.
            for start, end, address in list(find_addresses(text))[-_MAX_ADDRESSES:]:
                if address not in spared:
                    self._values.add(address)
                    self._spellings.update(_spellings(address, text[start:end]))


def _spellings(address: str, written: str) -> tuple[str, ...]:
    """Return plain spellings, found even within a longer word; `ec2-203-0-113-7` is one."""
    if ":" in address:
        return address, written.lower()
    return address, written.lower(), address.replace(".", "-")
