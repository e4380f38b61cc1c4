"""Addresses are found inside any text, in any spelling, and what only looks like one is not."""

from __future__ import annotations

import pytest

from usercontext.address import networks as trusted_networks
from usercontext.address.networks import TrustedNetworks
from usercontext.address.search import HiddenAddresses, find_addresses

TEXTS: list[tuple[str, list[str]]] = [
    ("203.0.113.9", ["203.0.113.9"]),
    ("from 203.0.113.9:80, then 10.0.0.1.", ["203.0.113.9", "10.0.0.1"]),
    ("203.000.113.009", ["203.0.113.9"]),
    ("v1.2.3.4x", ["1.2.3.4"]),
    ("256.1.1.1", []),
    ("1234.1.1.1", []),
    ("1.2.3", []),
    ("[2001:DB8::9]:443", ["2001:db8::9"]),
    ("fe80::1%eth0", ["fe80::1"]),
    ("ip:2001:db8::9", ["2001:db8::9"]),
    ("at 2001:db8::9: closed", ["2001:db8::9"]),
    ("::ffff:203.0.113.9", ["203.0.113.9"]),
    ("::ffff:203.0.113.9.", ["203.0.113.9"]),
    ("::", []),
    ("std::string", []),
    ("at 12:34:56", []),
    ("2001:db8::9zone", []),
    ("lookup?ip=2001%3Adb8%3A%3A7&x", ["2001:db8::7"]),
    ("lookup?ip=2001%253adb8%253a%253a7", ["2001:db8::7"]),
    ("throttle_anon_2001:db8::7", ["2001:db8::7"]),
    ("2001:db8::7_burst", ["2001:db8::7"]),
    ("rate:2001:db8::7", ["2001:db8::7"]),
    ("ip6:2001:db8::7/64", ["2001:db8::7"]),
    ("2001:db8:0:0:0:0:0:7:443", ["2001:db8::7"]),
    ("x[a::b:Foo] std::dead::beef Foo::abc", []),
    ("00:1A:2B:3C:4D:5E", []),
]


@pytest.mark.parametrize(("text", "found"), TEXTS)
def test_addresses_in_a_text(text: str, found: list[str]) -> None:
    """Ports, brackets, zones and full stops stay outside."""
    assert [address for _, _, address in find_addresses(text)] == found


def test_no_address_to_hide() -> None:
    """Where a request came with no address, nothing is hidden."""
    assert not HiddenAddresses().is_in("203.0.113.9")
    assert not HiddenAddresses(lambda: ["", "unknown"]).is_in("203.0.113.9")


def test_many_addresses_do_not_crowd_out_the_client() -> None:
    """Of a long header the last addresses are hidden: a client can only write before them."""
    header = ", ".join(f"10.1.0.{number}" for number in range(100, 250))
    hidden = HiddenAddresses(lambda: [header + ", 203.0.113.9", "198.51.100.7"])
    assert hidden.is_in("203.0.113.9")
    assert hidden.is_in("198.51.100.7")
    assert not hidden.is_in("10.1.0.100")


def test_addresses_are_gathered_when_needed() -> None:
    """A text that can hold no address does not make us look for any."""
    asked: list[int] = []
    hidden = HiddenAddresses(lambda: asked.append(1) or ["203.0.113.9"], spared="10.0.0.1")
    assert not hidden.is_in("/plain/path")
    assert asked == []
    assert hidden.is_in("host-203-0-113-9")
    assert hidden.is_in("203.0.113.9")
    assert asked == [1]


def test_lenient_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library reads more than addresses, its own spelling decides."""
    monkeypatch.setattr(trusted_networks, "READS_STRICTLY", False)
    assert TrustedNetworks(["10.0.0.0/8"]).holds_ipv4("10.0.0.1") == 1
    assert TrustedNetworks(["10.0.0.0/8"]).holds_ipv4("11.0.0.1") == 0
