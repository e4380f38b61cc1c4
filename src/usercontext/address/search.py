"""Addresses inside other text: where they stand, and whether given ones are among them; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usercontext.address.spelling import canonical_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["HiddenAddresses", "find_addresses"]

_IPV4 = re.compile(r"(?<!\d)\d{1,3}(?:\.\d{1,3}){3}(?!\d)", re.ASCII)
# Anything that might be IPv6, judged below: a pattern of the whole grammar would be slower, and
# no shorter than this is bounded on hostile text.
_IPV6_RUN = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", re.ASCII)
_WORD = re.compile(r"\w")

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
    if text.count(":") < 2:
        return
    for match in _IPV6_RUN.finditer(text):
        start, end = match.span()
        run = match[0]
        if run.startswith(":") and not run.startswith("::"):
            start += 1  # "ip:2001:db8::1"
        elif _WORD.match(text[start - 1 : start]):
            continue  # "std::", and the like
        while end > start and (text[end - 1] == "." or _ends_in_single_colon(text, start, end)):
            end -= 1
        address = canonical_address(text[start:end])
        if address is not None and address != "::" and not _WORD.match(text[end : end + 1]):
            yield start, end, address


def _ends_in_single_colon(text: str, start: int, end: int) -> bool:
    return text[end - 1] == ":" and text[max(end - 2, start) : end] != "::"


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
        if text.count(".") < 3 and text.count(":") < 2 and text.count("-") < 3:
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
