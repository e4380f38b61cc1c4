"""What other tools collect of a request: nothing in it tells an address that was not asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.serving import serve
from usercontext import RequestData
from usercontext.clients.collected import cleaned_environ, cleaned_headers
from usercontext.core.record import current

SPOOFED = "6.6.6.6"
SPELLINGS = ["x-real-ip", "x_real_ip", "X-Real-IP", "X_REAL_IP", b"x-real-ip", b"x_real_ip"]


def cleaned(clean: Any, collected: dict[Any, Any], **options: Any) -> dict[Any, Any]:
    """Clean what a tool collected, inside of a request."""
    seen: list[dict[Any, Any]] = []
    data = RequestData(**options)
    serve("asgi", lambda: seen.append(clean(collected, current())), request_data=data)
    return seen[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_address_header_goes_however_it_is_spelled(name: Any) -> None:
    """Servers and tools write it in any case, with `_` or `-`, as text or bytes."""
    assert cleaned(cleaned_headers, {name: SPOOFED, "accept": "*/*"}) == {"accept": "*/*"}


@pytest.mark.parametrize("name", ["x-edge-ip", "x_edge_ip", b"X_Edge_IP"])
def test_the_configured_header_goes_as_well(name: Any) -> None:
    """Where the address is asked for in part, the header would tell all of it."""
    options = {"forwarded_header": "x-edge-ip", "trusted_proxies": ["10.0.0.1"]}
    headers = cleaned(
        cleaned_headers, {name: SPOOFED}, include_ip=True, anonymize_ip="mask", **options
    )
    assert headers == {}


@pytest.mark.parametrize("name", SPELLINGS)
def test_headers_stay_where_the_address_is_asked_for(name: Any) -> None:
    """Then they are as good as the address."""
    assert cleaned(cleaned_headers, {name: SPOOFED}, include_ip=True) == {name: SPOOFED}


@pytest.mark.parametrize(
    "key", ["HTTP_X_REAL_IP", "X-Real-IP", "werkzeug.proxy_fix.orig", "client"]
)
def test_no_key_of_an_environ_or_scope_holds_an_address(key: str) -> None:
    """Whatever a tool copied of them, and under whichever names."""
    assert cleaned(cleaned_environ, {key: SPOOFED, "PATH_INFO": "/"}) == {"PATH_INFO": "/"}
