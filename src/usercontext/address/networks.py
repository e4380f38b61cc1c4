"""The addresses and ranges that an app trusts, read once and searched in constant time; pure."""

from __future__ import annotations

from _bisect import bisect_right  # as `_socket` here: one module fewer to load
from _socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, NoReturn

from usercontext.address.spelling import READS_STRICTLY, canonical_address
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["NAMED_NETWORKS", "UNIX", "TrustedNetworks"]

#: The name that trusts peers over a unix socket, which have no address.
UNIX = "unix"

#: Names for ranges. Not `ipaddress.is_private`: its tables differ between Python versions.
NAMED_NETWORKS: dict[str, tuple[str, ...]] = {
    "loopback": ("127.0.0.0/8", "::1/128"),  # RFC 1122, RFC 4291
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, 4193
    "linklocal": ("169.254.0.0/16", "fe80::/10"),  # RFC 3927, RFC 4291
    "cgnat": ("100.64.0.0/10",),  # RFC 6598
}

_Range = tuple[bytes, bytes]


class TrustedNetworks:
    """A set of addresses, found by bisection over the edges of merged ranges."""

    __slots__ = ("_ipv4", "_ipv6", "includes_unix")

    def __init__(self, entries: Iterable[str], *, option: str = "trusted_proxies") -> None:
        names = _checked(entries, option)
        self.includes_unix: bool = UNIX in names
        ranges = list(_ranges(names, option))
        self._ipv4 = _edges(pair for pair in ranges if len(pair[0]) == 4)
        self._ipv6 = _edges(pair for pair in ranges if len(pair[0]) == 16)

    def __contains__(self, address: str) -> bool:
        """Return whether a canonical address is one of these."""
        if ":" not in address:
            return bool(self.holds_ipv4(address))
        return bisect_right(self._ipv6, inet_pton(AF_INET6, address)) % 2 == 1

    def holds_ipv4(self, text: str) -> int | None:
        """Return 1 if a text is a dotted address of these, 0 if not; None for anything else."""
        try:
            packed = inet_pton(AF_INET, text)
        except (OSError, ValueError):  # ValueError: an embedded null, a lone surrogate
            return None
        if not READS_STRICTLY and canonical_address(text) is None:
            return None
        return bisect_right(self._ipv4, packed) & 1

    def __bool__(self) -> bool:
        return self.includes_unix or bool(self._ipv4 or self._ipv6)


def _edges(ranges: Iterable[_Range]) -> list[bytes]:
    """Return where merged ranges begin and end, in turn: an odd number of them precede a member.

    An end is the last member and a zero byte, the first text after it in the order of bytes.
    """
    edges: list[bytes] = []
    for first, last in sorted(ranges):
        end = last + b"\0"
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += (first, end)
    return edges


def _checked(entries: object, option: str) -> Sequence[str]:
    if isinstance(entries, str):
        _refuse_text(entries, option)
    if isinstance(entries, bytes):
        raise ConfigurationError(f"{option} is one text, {entries!r}: write a list of str")
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


def _refuse_text(entries: str, option: str) -> NoReturn:
    for entry in entries.split(","):
        if entry.strip() == "*":
            _refuse("*", "*", option)
    raise ConfigurationError(
        f"{option} is one text, {entries!r}: write a list, {option}={_split(entries)}"
    )


def _split(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(",")) if part]


def _ranges(names: Iterable[str], option: str) -> Iterable[_Range]:
    for name in names:
        if name == UNIX:
            continue
        for network in NAMED_NETWORKS.get(name, (name,)):
            yield _range(network, option)


def _range(entry: str, option: str) -> _Range:
    if "," in entry:
        raise ConfigurationError(
            f"{option}: {entry!r} is several in one: write each as an element of its own, "
            f"{option}={_split(entry)}"
        )
    text, slash, prefix_text = entry.partition("/")
    address = canonical_address(text)
    if address is None:
        _refuse(entry, text, option)
    if address in ("0.0.0.0", "::") and not slash:  # noqa: S104 (refused, not bound)
        raise ConfigurationError(
            f'{option}: {entry!r} is not an address of a proxy; for a unix socket write "unix"'
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
    # The unspecified address is nobody's, whatever network it lies in.
    return max(first, 1).to_bytes(len(packed)), last.to_bytes(len(packed))


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
        f"{option}: {entry!r} is not an address, network or known name ({names}); host names are "
        "never looked up: write the proxy's address or network, such as '10.0.0.0/8'"
    )
