"""The client's address: found over both interfaces alike, and never chosen by the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forwarded
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.requests_of import environ_of, scope_of
from usercontext import diagnostics
from usercontext.client_ip import ClientAddress, ProxyTrust
from usercontext.exceptions import ConfigurationError
from usercontext.request_data import RequestData

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parent / "vectors" / "client_ip.jsonl").read_text().splitlines()
]
ROWS = [row for row in VECTORS if "expected" in row]
BUILDERS = {"asgi": scope_of, "wsgi": environ_of}


def options(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's configuration under our names."""
    config = dict(row["config"])
    if "header" in config:
        config["forwarded_header"] = config.pop("header")
    return config


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_vector(row: dict[str, Any], interface: str) -> None:
    """Every case collected from RFC 7239, other libraries and attacks gives its address."""
    if row["interface"] not in ("any", interface):
        return
    request_data = RequestData(include_ip=True, **options(row))
    source = BUILDERS[interface](row["peer"], row["headers"])
    assert request_data.ip_address(source) == row["expected"], row["why"]


ERRORS = [row for row in VECTORS if "expected_error" in row]


@pytest.mark.parametrize("row", ERRORS, ids=[row["name"] for row in ERRORS])
def test_vector_of_a_wrong_option(row: dict[str, Any]) -> None:
    """Every configuration that the vectors call wrong is refused when it is built."""
    with pytest.raises(ConfigurationError):
        RequestData(**options(row))


#: What is wrong, the options, and words of the message: the entry and the fix.
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("bare string", {"trusted_proxies": "10.0.0.1"}, "'10.0.0.1'", "['10.0.0.1']"),
    ("bytes", {"trusted_proxies": b"10.0.0.1"}, "b'10.0.0.1'", "write a list"),
    ("a number", {"trusted_proxies": 10}, "int", '["10.0.0.0/8"]'),
    ("a mapping", {"trusted_proxies": {"10.0.0.1": 1}}, "dict", '["10.0.0.0/8"]'),
    ("an entry of another type", {"trusted_proxies": [10]}, "int", "write the text"),
    ("empty entry", {"trusted_proxies": [""]}, "empty entry", "leave it out"),
    ("blank entry", {"trusted_proxies": [" "]}, "empty entry", "leave it out"),
    ("host name", {"trusted_proxies": ["proxy.internal"]}, "'proxy.internal'", "never looked up"),
    ("upper-case name", {"trusted_proxies": ["Private"]}, "'Private'", "private"),
    ("zone", {"trusted_proxies": ["fe80::1%eth0"]}, "'fe80::1%eth0'", "address alone"),
    ("prefix too long", {"trusted_proxies": ["10.0.0.0/33"]}, "'10.0.0.0/33'", "1 to 32"),
    ("prefix of IPv6", {"trusted_proxies": ["fd00::/129"]}, "'fd00::/129'", "1 to 128"),
    ("netmask", {"trusted_proxies": ["10.0.0.0/255.0.0.0"]}, "'10.0.0.0/255.0.0.0'", "number"),
    ("no prefix", {"trusted_proxies": ["10.0.0.0/"]}, "'10.0.0.0/'", "number"),
    ("superscript", {"trusted_proxies": ["10.0.0.0/²"]}, "'10.0.0.0/²'", "number"),
    ("host bits", {"trusted_proxies": ["10.0.0.1/8"]}, "'10.0.0.1/8'", "'10.0.0.0/8'"),
    ("host bits of IPv6", {"trusted_proxies": ["fd00::1/8"]}, "'fd00::1/8'", "'fd00::/8'"),
    ("everyone", {"trusted_proxies": ["0.0.0.0/0"]}, "'0.0.0.0/0'", "ranges of your proxies"),
    ("everyone, IPv6", {"trusted_proxies": ["::/0"]}, "'::/0'", "ranges of your proxies"),
    ("everyone, mapped", {"trusted_proxies": ["::ffff:0.0.0.0/96"]}, "/96'", "ranges of your"),
    ("mapped below /96", {"trusted_proxies": ["::ffff:10.0.0.0/8"]}, "/8'", "IPv4 network"),
    ("unspecified", {"trusted_proxies": ["0.0.0.0"]}, "'0.0.0.0'", '"unix"'),
    ("star", {"trusted_proxies": ["*"]}, '"*"', "ranges of your proxies"),
    ("negative hops", {"trusted_hops": -1}, "-1", "0 or more"),
    ("hops True", {"trusted_hops": True}, "bool", "such as 1"),
    ("hops text", {"trusted_hops": "1"}, "str", "such as 1"),
    ("single, untrusted", {"forwarded_header": "X-Real-IP"}, "'x-real-ip'", "trusted_proxies"),
    (
        "single with hops",
        {"forwarded_header": "x-real-ip", "trusted_hops": 1, "trusted_proxies": ["unix"]},
        "trusted_hops",
        "leave trusted_hops out",
    ),
    ("named, untrusted", {"forwarded_header": "forwarded"}, "'forwarded'", "trusted_proxies"),
    ("underscore", {"forwarded_header": "X_Real_IP"}, "'X_Real_IP'", "'x-real-ip'"),
    ("no token", {"forwarded_header": "x real ip"}, "'x real ip'", "'x-forwarded-for'"),
    ("empty name", {"forwarded_header": ""}, "''", "'x-forwarded-for'"),
    ("no text", {"forwarded_header": None}, "NoneType", '"x-real-ip"'),
]


@pytest.mark.parametrize(
    ("config", "entry", "fix"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong_option_names_the_entry_and_the_fix(
    config: dict[str, Any], entry: str, fix: str
) -> None:
    """A wrong option raises when it is built, naming what is wrong and what to write."""
    with pytest.raises(ConfigurationError) as caught:
        RequestData(**config)
    assert entry in str(caught.value)
    assert fix in str(caught.value)
