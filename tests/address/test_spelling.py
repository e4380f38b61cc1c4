"""One spelling for each address, and none for anything that is not a bare address."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usercontext.address.spelling import canonical_address

ADDRESSES = [
    ("203.0.113.7", "203.0.113.7"),
    ("0.0.0.0", "0.0.0.0"),
    ("255.255.255.255", "255.255.255.255"),
    ("::", "::"),
    ("::1", "::1"),
    ("2001:DB8::A", "2001:db8::a"),
    ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
    ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
    ("1:0:0:2:3:0:0:4", "1::2:3:0:0:4"),
    ("1:2:3:0:5:6:7:8", "1:2:3:0:5:6:7:8"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    ("::ffff:cb00:7107", "203.0.113.7"),
    ("0:0:0:0:0:FFFF:203.0.113.7", "203.0.113.7"),
    ("::1.2.3.4", "::102:304"),
    ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]

NO_ADDRESSES = {
    "empty": "",
    "word": "localhost",
    "auto": "{{auto}}",
    "port": "203.0.113.7:80",
    "brackets": "[::1]",
    "brackets and port": "[::1]:80",
    "zone": "fe80::1%eth0",
    "empty zone": "fe80::1%",
    "prefix": "10.0.0.0/8",
    "list": "203.0.113.7, 10.0.0.1",
    "space before": " 203.0.113.7",
    "newline after": "203.0.113.7\n",
    "no-break space": "203.0.113.7\xa0",
    "null": "203.0.113.7\0",
    "null in IPv6": "::1\0",
    "leading zero": "203.0.113.07",
    "leading zeros in hex": "00001::1",
    "three numbers": "203.0.113",
    "one number": "3405803783",
    "hexadecimal": "0xcb.0.0x71.7",
    "too large": "203.0.113.256",
    "superscript digit": "203.0.113.\u00b2",
    "Arabic digit": "203.0.113.\u0667",
    "lone surrogate": "\ud800::1",
    "two gaps": "1::2::3",
    "nine groups": "1:2:3:4:5:6:7:8:9",
    "too long": "0" * 46,
    "huge": ":" * 1_000_000,
}


@pytest.mark.parametrize(("text", "spelling"), ADDRESSES, ids=[text for text, _ in ADDRESSES])
def test_an_address_has_one_spelling(text: str, spelling: str) -> None:
    """However an address is written, it comes out in the one canonical spelling."""
    assert canonical_address(text) == spelling


@pytest.mark.parametrize("text", NO_ADDRESSES.values(), ids=NO_ADDRESSES)
def test_anything_but_a_bare_address_is_refused(text: str) -> None:
    """What other programs may read in another way is not an address."""
    assert canonical_address(text) is None


def spelling_of(text: str) -> str | None:
    """Spell an address by the standard library alone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return str(address.ipv4_mapped or address)
    return str(address)


addresses = (
    st.ip_addresses().map(str)
    | st.ip_addresses(v=6).map(lambda address: address.exploded.upper())
    | st.tuples(
        st.sampled_from(["", "::", "::ffff:", "1::", "0:0:0:0:0:0:", "::ffff:0:"]),
        st.ip_addresses(v=4),
    ).map(lambda parts: f"{parts[0]}{parts[1]}")
    | st.lists(st.sampled_from(["0", "00", "1", "ffff", "FFFF", ""]), max_size=9).map(":".join)
    | st.text(alphabet="0123456789abcdefABCDEF.:%/[] x\0", max_size=20)
    | st.text(max_size=20)
)


@given(addresses)
@example("::ffff:0.0.0.0")
@example("::0.0.1.0")
@example("::1%0")
def test_spellings_are_those_of_the_standard_library(text: str) -> None:
    """Every text is accepted, refused and spelled as `ipaddress` would, zones aside."""
    assert canonical_address(text) == spelling_of(text)
