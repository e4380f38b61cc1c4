"""The one spelling of an internet address; pure, and quick enough for every request.

`ipaddress` costs 20 times as much per address and 8 ms to import, so the C library parses and
prints; where the two spell an address differently, `ipaddress` decides.
"""

from __future__ import annotations

# `socket` itself would load `selectors` and `enum` into every process that imports us.
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

__all__ = ["READS_STRICTLY", "canonical_address"]

# Eight groups of four hex digits, the last two written as an IPv4 address.
_LONGEST = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

_IPV4_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, section 2.5.5.2


def canonical_address(text: str) -> str | None:
    """Spell an address as `str(ipaddress.ip_address(text))`, IPv4-mapped ones as IPv4.

    Returns:
        None for anything but a bare address: a port, brackets, a zone, a prefix, spaces and
        leading zeros are all refused, since other programs read such texts in different ways.
    """
    if len(text) > _LONGEST:
        return None
    try:
        if ":" not in text:
            packed = inet_pton(AF_INET, text)
            return text if READS_STRICTLY or inet_ntop(AF_INET, packed) == text else None
        # Not every C library refuses a zone.
        return None if "%" in text else _spell_ipv6(inet_pton(AF_INET6, text))
    except (OSError, ValueError):  # ValueError: an embedded null, a lone surrogate
        return None


def _reads_strictly() -> bool:
    """Return whether the C library refuses leading zeros, as all but a few do."""
    try:
        inet_pton(AF_INET, "010.0.0.1")
    except OSError:
        return True
    return False


#: Asked once, since printing an address again costs more than reading it.
READS_STRICTLY = _reads_strictly()


def _spell_ipv6(packed: bytes) -> str:
    if packed.startswith(_IPV4_MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    text = inet_ntop(AF_INET6, packed)
    if "." not in text:
        return text
    # "::1.2.3.4", long deprecated: C libraries print dots here, `ipaddress` "::102:304".
    import ipaddress

    return str(ipaddress.IPv6Address(packed))
