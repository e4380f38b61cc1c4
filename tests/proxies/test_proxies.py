"""Behind real proxies, as the guide has them configured, the address is the client's or none.

By default each proxy runs alone and in some chains of two; with USERCONTEXT_ALL_CHAINS=1 (`tox run
-e proxies`) in all of them. What is not installed is skipped.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from tests.proxies.programs import CONNECTIONS, NGINX_BEHIND_CONNECTIONS, PROXIES, SERVERS
from tests.proxies.running import CLIENT, REQUESTS, Stack, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proxies.programs import Place, Proxy

TRUST = {"trusted_proxies": ["127.0.0.1", "unix"]}
ALL = os.environ.get("USERCONTEXT_ALL_CHAINS") == "1"
CHAINS = [
    pair for pair in permutations(PROXIES, 2) if ALL or ("nginx" in pair and "varnish" not in pair)
]

pytest.importorskip("uvicorn", reason="uvicorn is not installed: nothing runs behind the proxies")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Everything that runs while these tests do."""
    with Stack() as running:
        yield running


def server(stack: Stack, name: str, *, unix: bool = False, trust: bool = True) -> Place:
    """Return where a server listens; skip where it is not installed."""
    module = SERVERS[name].module
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    return stack.server(name, TRUST if trust else {}, unix=unix)


def installed(proxy: Proxy) -> Proxy:
    """Return a proxy; skip where it is not installed."""
    if proxy.found() is None:
        pytest.skip(f"{proxy.title} is not installed")
    if proxy.title == "Envoy" and CLIENT.startswith("127."):
        pytest.skip("Envoy takes another address for a loopback client's, and there is none here")
    return proxy


def answers(place: Place, *, tls: bool = False) -> dict[str, str | None]:
    """Return the address that is reported of each request."""
    return {name: ask(place, headers, tls=tls)["address"] for name, headers in REQUESTS.items()}


RIGHT = dict.fromkeys(REQUESTS, CLIENT)


@pytest.mark.parametrize("before", ["uvicorn", "uvicorn, unix", "gunicorn", "gunicorn, unix"])
@pytest.mark.parametrize("name", PROXIES)
def test_alone(stack: Stack, name: str, before: str) -> None:
    """Whatever the client sends, it is the client's."""
    proxy = installed(PROXIES[name])
    kind, _, unix = before.partition(", ")
    if unix and not proxy.over_unix:
        pytest.skip(f"{proxy.title} connects to no unix socket")
    assert answers(stack.proxy(proxy, server(stack, kind, unix=bool(unix)))) == RIGHT


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "unix"])
@pytest.mark.parametrize("name", [name for name in SERVERS if "PROXY" not in name])
def test_servers(stack: Stack, name: str, *, unix: bool) -> None:
    """On every server, by nginx's connection over TCP and over a unix socket."""
    nginx = installed(PROXIES["nginx"])
    assert answers(stack.proxy(nginx, server(stack, name, unix=unix))) == RIGHT


@pytest.mark.parametrize(("outer", "inner"), CHAINS)
def test_chains(stack: Stack, outer: str, inner: str) -> None:
    """Two in a row, both trusted: each keeps what the other one has written."""
    second = stack.proxy(installed(PROXIES[inner]), server(stack, "uvicorn"))
    assert answers(stack.proxy(installed(PROXIES[outer]), second)) == RIGHT


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("name", [name for name in PROXIES if name != "envoy"])
def test_ipv6(stack: Stack, name: str) -> None:
    """Over IPv6 on both sides: what the proxy has written last, as all come from one address."""
    proxy = installed(PROXIES[name])
    options = {"trusted_proxies": ["::1"], "trusted_hops": 1}
    place = stack.proxy(proxy, stack.server("uvicorn", options, host="::1"), host="::1")
    assert answers(place) == dict.fromkeys(REQUESTS, "::1")


@pytest.mark.parametrize("name", ["gunicorn, PROXY", "uWSGI, PROXY", "daphne, PROXY"])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_proxy_protocol(stack: Stack, connection: str, name: str) -> None:
    """Where the connection itself is handed on, nothing is trusted, and no header is read."""
    pytest.importorskip("trustme")
    if (connection, name) == ("haproxy", "uWSGI, PROXY"):
        pytest.skip("uWSGI knows version 1 alone, and HAProxy is to send version 2 here")
    proxy = installed(CONNECTIONS[connection])
    place = stack.proxy(proxy, server(stack, name, trust=False))
    assert answers(place, tls=connection != "haproxy") == RIGHT


def test_proxy_protocol_before_a_proxy(stack: Stack) -> None:
    """A nginx in between appends the address that it was told, with the guide's two lines."""
    installed(PROXIES["nginx"])
    inner = stack.proxy(NGINX_BEHIND_CONNECTIONS, server(stack, "uvicorn"))
    assert answers(stack.proxy(installed(CONNECTIONS["haproxy"]), inner)) == RIGHT


@pytest.mark.parametrize("outer", ["haproxy", "nginx", "caddy", "lighttpd", "apache"])
def test_a_socket_between_proxies(stack: Stack, outer: str) -> None:
    """What nginx writes of a peer without an address is walked over, as that peer is trusted."""
    inner = stack.proxy_on_socket(installed(PROXIES["nginx"]), server(stack, "uvicorn"))
    assert answers(stack.proxy(installed(PROXIES[outer]), inner)) == RIGHT


def test_nothing_in_between(stack: Stack) -> None:
    """Without a proxy nothing that the client writes is believed."""
    assert answers(server(stack, "uvicorn")) == RIGHT
    assert answers(server(stack, "gunicorn")) == RIGHT
