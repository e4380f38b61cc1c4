"""The addresses and ranges that an app trusts, read once and searched in constant time; pure."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton
from bisect import bisect_right
from typing import TYPE_CHECKING, NoReturn

from usercontext.address import canonical_address
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["NAMED_NETWORKS", "UNIX", "TrustedNetworks"]

#: The name that trusts peers over a unix socket, which have no address.
UNIX = "unix"

#: Names for ranges. Not `ipaddress.is_private`: its tables differ between Python versions.
NAMED_NETWORKS = {
    "loopback": ("127.0.0.0/8", "::1/128"),  # RFC 1122, RFC 4291
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, 4193
    "linklocal": ("169.254.0.0/16", "fe80::/10"),  # RFC 3927, RFC 4291
    "cgnat": ("100.64.0.0/10",),  # RFC 6598
}

_Range = tuple[bytes, bytes]


class TrustedNetworks:
    """A set of addresses, found by bisection over merged ranges of packed addresses."""

    __slots__ = ("_firsts", "_lasts", "includes_unix")

    def __init__(self, entries: Iterable[str], *, option: str = "trusted_proxies") -> None:
        names = _checked(entries, option)
        self.includes_unix = UNIX in names
        ranges = sorted(_ranges(names, option))
        # Packed addresses of both families lie in one list: those of IPv4 are told apart by a
        # leading byte, so no range of one family can hold an address of the other.
        self._firsts: list[bytes] = []
        self._lasts: list[bytes] = []
        for first, last in ranges:
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, address: str) -> bool:
        """Return whether a canonical address is one of these."""
        if ":" in address:
            packed = b"6" + inet_pton(AF_INET6, address)
        else:
            packed = b"4" + inet_pton(AF_INET, address)
        at = bisect_right(self._firsts, packed) - 1
        return at >= 0 and packed <= self._lasts[at]

    def __bool__(self) -> bool:
        return self.includes_unix or bool(self._firsts)


def _checked(entries: object, option: str) -> Sequence[str]:
    if isinstance(entries, (str, bytes)):
        raise ConfigurationError(
            f"{option} is one text, {entries!r}: write a list, {option}=[{entries!r}]"
        )
    if not isinstance(entries, (list, tuple, set, frozenset)):
        raise ConfigurationError(
            f'{option} must be a list such as ["10.0.0.0/8"], not {type(entries).__name__}'
        )
    for entry in entries:
        if not isinstance(entry, str):
            raise ConfigurationError(
                f"{option} has an entry of type {type(entry).__name__}: write the text, "
                f"such as {str(entry)[:80]!r}"
            )
    return tuple(entries)


def _ranges(names: Iterable[str], option: str) -> Iterable[_Range]:
    for name in names:
        if name == UNIX:
            continue
        for network in NAMED_NETWORKS.get(name, (name,)):
            yield _range(network, option)


def _range(entry: str, option: str) -> _Range:
    text, slash, prefix_text = entry.partition("/")
    address = canonical_address(text)
    if address is None:
        _refuse(entry, text, option)
    if address in ("0.0.0.0", "::") and not slash:  # noqa: S104 (refused, not bound)
        raise ConfigurationError(
            f'{option}: {entry!r} is no address of a proxy; for a unix socket write "unix"'
        )
    family = AF_INET6 if ":" in address else AF_INET
    packed = inet_pton(family, address)
    bits = len(packed) * 8
    prefix = bits
    if slash:
        mapped = ":" in text and ":" not in address
        prefix = _prefix(entry, prefix_text, bits, mapped=mapped, option=option)
    return _bounds(entry, packed, prefix, option)


def _prefix(entry: str, text: str, bits: int, *, mapped: bool, option: str) -> int:
    longest = 128 if mapped else bits
    # isdigit() alone accepts "²".
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= longest):
        raise ConfigurationError(
            f"{option}: the prefix of {entry!r} must be a number from 1 to {longest}"
        )
    prefix = int(text)
    if mapped:
        if prefix < 96:  # as a network of IPv6 it would be ::/8 and the like: CVE-2026-90711
            raise ConfigurationError(
                f"{option}: {entry!r} is an IPv4-mapped network, whose prefix is at least 96: "
                "write the IPv4 network instead, such as '10.0.0.0/8'"
            )
        prefix -= 96
    if prefix == 0:
        raise ConfigurationError(
            f"{option}: {entry!r} would trust every address, so that any client could choose "
            "its own: write the ranges of your proxies"
        )
    return prefix


def _bounds(entry: str, packed: bytes, prefix: int, option: str) -> _Range:
    host_bits = len(packed) * 8 - prefix
    number = int.from_bytes(packed)
    first = number >> host_bits << host_bits
    if first != number:
        network = _spelled(first.to_bytes(len(packed)))
        raise ConfigurationError(
            f"{option}: {entry!r} has host bits set; did you mean '{network}/{prefix}'?"
        )
    last = first | ((1 << host_bits) - 1)
    family = b"4" if len(packed) == 4 else b"6"
    return family + packed, family + last.to_bytes(len(packed))


def _spelled(packed: bytes) -> str:
    import ipaddress  # only for the text of an error

    return str(ipaddress.ip_address(packed))


def _refuse(entry: str, text: str, option: str) -> NoReturn:
    if not entry.strip():
        raise ConfigurationError(f"{option} has an empty entry: leave it out")
    if entry == "*":
        raise ConfigurationError(
            f'{option}: "*" would trust everyone, so that any client could choose its address: '
            "write the ranges of your proxies, or trusted_hops together with them"
        )
    if "%" in text:
        raise ConfigurationError(
            f"{option}: {entry!r} has a zone, which means nothing here: write the address alone"
        )
    names = ", ".join([*NAMED_NETWORKS, UNIX])
    raise ConfigurationError(
        f"{option}: {entry!r} is no address, network or known name ({names}); host names are "
        "never looked up: write the proxy's address or network, such as '10.0.0.0/8'"
    )
