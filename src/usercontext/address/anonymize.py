"""Ways to make an address say less, each a function from address to address."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Callable
from typing import Literal, TypeAlias

from usercontext import diagnostics
from usercontext.address.spelling import canonical_address
from usercontext.checks import is_whole
from usercontext.exceptions import ConfigurationError

__all__ = ["AnonymizeOption", "Anonymizer", "anonymizer"]

#: Takes a canonical address; returns one, or None to withhold it.
Anonymizer: TypeAlias = Callable[[str], str | None]
AnonymizeOption: TypeAlias = "Literal[False, 'mask'] | tuple[int, int] | list[int] | Anonymizer"

_MASK = (24, 48)
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104


def anonymizer(option: object) -> Anonymizer | None:
    """Return the function that an `anonymize_ip` option asks for; None for False.

    Raises:
        ConfigurationError: the option is none of those that `RequestData` knows.
    """
    if option is False:
        return None
    if option == "mask":
        return _masking(*_MASK)
    if isinstance(option, (tuple, list)):
        return _masking(*_checked_prefixes(option))
    if callable(option):
        return _isolated(option)
    raise ConfigurationError(
        f'anonymize_ip must be False, "mask", a pair of prefixes such as (24, 48) or a callable, '
        f"not {option!r:.80}"
    )


def _checked_prefixes(pair: tuple[object, ...] | list[object]) -> tuple[int, int]:
    if len(pair) != 2:
        raise ConfigurationError(
            "anonymize_ip takes two prefixes, of IPv4 and of IPv6, such as (24, 48)"
        )
    ipv4, ipv6 = pair
    return _checked_prefix(ipv4, "IPv4", 32), _checked_prefix(ipv6, "IPv6", 128)


def _checked_prefix(prefix: object, family: str, longest: int) -> int:
    if is_whole(prefix) and 1 <= prefix <= longest:
        return prefix
    raise ConfigurationError(
        f"anonymize_ip: the prefix of {family} must be a number from 1 to {longest}, "
        f"not {prefix!r:.80}"
    )


def _masking(ipv4: int, ipv6: int) -> Anonymizer:
    def mask(address: str) -> str | None:
        if ":" not in address:
            return _shown(inet_ntop(AF_INET, _cut(inet_pton(AF_INET, address), ipv4)))
        packed = inet_pton(AF_INET6, address)
        return _shown(inet_ntop(AF_INET6, _cut(packed, _kept_bits(packed, ipv4, ipv6))))

    return mask


# IPv6 addresses that carry an IPv4 one, which would stand whole in what `ipv6` keeps of them.
_6TO4 = b"\x20\x02"  # RFC 3056, section 2
_TEREDO = b"\x20\x01\x00\x00"  # RFC 4380, section 4
_NAT64 = b"\x00\x64\xff\x9b" + bytes(8)  # RFC 6052, section 2.1
_IPV4_COMPATIBLE = bytes(12)  # RFC 4291, section 2.5.5.1
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")  # RFC 5214, section 6.1


def _kept_bits(packed: bytes, ipv4: int, ipv6: int) -> int:
    """Return how many bits are kept of an IPv6 address; of an IPv4 one within it, `ipv4`."""
    if packed.startswith((_NAT64, _IPV4_COMPATIBLE)) and packed[12:] > b"\x00\x00\xff\xff":
        return 96 + ipv4
    if packed.startswith(_6TO4):
        return min(ipv6, 16 + ipv4)
    if packed.startswith(_TEREDO):
        return min(ipv6, 64)  # before the client's port and address; in front is the server's
    return min(ipv6, 96 + ipv4) if packed[8:12] in _ISATAP else ipv6


def _cut(packed: bytes, prefix: int) -> bytes:
    rest = len(packed) * 8 - prefix
    return (int.from_bytes(packed) >> rest << rest).to_bytes(len(packed))


def _shown(text: object) -> str | None:
    address = canonical_address(text) if isinstance(text, str) else None
    return None if address in _UNSPECIFIED else address


def _isolated(function: Callable[[str], object]) -> Anonymizer:
    """Wrap the app's function: what it raises, or what is not an address, withholds the address."""

    def anonymize(address: str) -> str | None:
        try:
            result = function(address)
        except Exception as error:  # noqa: BLE001
            # Not with the traceback: the error's own text may hold the address.
            diagnostics.warn_once(
                "anonymize_ip raised",
                "anonymize_ip raised %s: the address is withheld",
                type(error).__name__,
            )
            return None
        shown = _shown(result)
        if shown is None and result is not None:
            diagnostics.warn_once(
                "anonymize_ip returned no address",
                "anonymize_ip returned no address but %s: the address is withheld",
                type(result).__name__,
            )
        return shown

    return anonymize
