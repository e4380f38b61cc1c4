"""What finding an address and scrubbing a report cost: `python benchmarks/addresses.py`.

Best of several runs, in microseconds; clocks differ, so read the rows against each other.
"""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING, Any

from usercontext import RequestData
from usercontext.privacy import Scrubber

if TYPE_CHECKING:
    from collections.abc import Callable

HEADERS = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml"),
    (b"accept-language", b"en"),
    (b"accept-encoding", b"gzip, br"),
    (b"connection", b"keep-alive"),
    (b"referer", b"https://example.com/"),
    (b"authorization", b"Bearer x"),
    (b"cookie", b"theme=dark; sessionid=x"),
    (b"x-request-id", b"5f2b"),
    (b"x-forwarded-proto", b"https"),
]
PROXIES = ["10.0.0.0/8", "2001:db8::/32"]


def scope(forwarded: str, name: str = "x-forwarded-for") -> dict[str, Any]:
    """Return a scope of 12 headers, from a proxy."""
    headers = [*HEADERS, (name.encode(), forwarded.encode())]
    return {"type": "http", "path": "/", "headers": headers, "client": ("10.0.0.1", 50000)}


def event() -> dict[str, Any]:
    """Return a report of an exception with 20 frames."""
    lines = ["    value = compute(argument)"] * 5
    frame = {"function": "f", "context_line": lines[0], "pre_context": lines, "post_context": lines}
    return {
        "event_id": "0" * 32,
        "user": {"id": "42", "email": "jane@example.com", "ip_address": "203.0.113.9"},
        "request": {"url": "https://example.com/a", "headers": {"User-Agent": "x", "Accept": "y"}},
        "exception": {
            "values": [
                {
                    "type": "E",
                    "value": "no jane@example.com",
                    "stacktrace": {"frames": [frame] * 20},
                }
            ]
        },
    }


def rows() -> list[tuple[str, Callable[[], object]]]:
    """Return what is measured."""
    plain = RequestData(include_ip=True)
    walk = RequestData(include_ip=True, trusted_proxies=PROXIES)
    quoted = RequestData(include_ip=True, trusted_proxies=PROXIES, forwarded_header="forwarded")
    mask = RequestData(include_ip=True, anonymize_ip="mask")
    everything = RequestData(include_query_string=True, include_headers=True, include_cookies=True)
    outside = {**scope(""), "client": ("203.0.113.9", 50000)}
    two = scope("203.0.113.9, 10.0.0.7")
    six = scope("2001:db9::9, 2001:db8::7")
    elements = scope('for="[2001:db9::9]:443";proto=https, for=10.0.0.7', "forwarded")
    long, commas = scope("6.6.6.6, " * 10_000 + "203.0.113.9"), scope("," * 90_000)
    quotes = scope('for="' * 18_000, "forwarded")
    sent = event()
    named, anywhere = Scrubber(["$user.email"]), Scrubber(["@email", "@ip"])
    never = Scrubber(never_store_ip=True)
    return [
        ("address: the peer", lambda: plain.ip_address(outside)),
        ("address: the peer, masked", lambda: mask.ip_address(outside)),
        ("address: walk of 2 entries", lambda: walk.ip_address(two)),
        ("address: walk of 2 entries, IPv6", lambda: walk.ip_address(six)),
        ("address: walk of 2 elements of Forwarded", lambda: quoted.ip_address(elements)),
        ("address: header of 90 kB, found at its end", lambda: walk.ip_address(long)),
        ("address: header of 90,000 commas", lambda: walk.ip_address(commas)),
        ("address: Forwarded of 18,000 open quotes", lambda: quoted.ip_address(quotes)),
        ("request described, all but its data", lambda: everything.collect(two)),
        ("report scrubbed: $user.email", lambda: named.event(sent)),
        ("report scrubbed: @email and @ip anywhere", lambda: anywhere.event(sent)),
        ("report scrubbed: never_store_ip", lambda: never.event(sent)),
    ]


def best(function: Callable[[], object]) -> float:
    """Return the least time of a call, in microseconds."""
    timer = timeit.Timer(function)
    number, _ = timer.autorange(lambda _number, _took: None)
    number = max(1, number // 10)
    return min(timer.repeat(5, number)) / number * 1e6


def main() -> None:
    """Measure and print."""
    for name, function in rows():
        print(f"{name:<45} {best(function):>10.2f} us")


if __name__ == "__main__":
    main()
