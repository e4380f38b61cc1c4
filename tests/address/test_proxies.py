"""What real proxies, servers and adapters handed to an app: the client's address of it, or none."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.requests_of import environ_of, scope_of
from usercontext.request import RequestData

Row = dict[str, Any]

ROWS: list[Row] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "proxies.jsonl").read_text().splitlines()
]

#: Which proxies only pass on what the client has written, or write no address: said in the docs,
#: and to be told from the others by nobody.
PASSING = {
    ("nginx", "bare"),
    ("nginx", "pp-addr"),
    ("nginx", "http-xff"),
    ("haproxy", "if-none"),
    ("haproxy", "except"),
    ("haproxy", "bare"),
    ("apache", "add-off"),
    ("trafficserver", "no-xff"),
    ("h2o", "emit-off"),
    ("envoy", "default"),
    ("envoy", "skip-append"),
    ("squid", "transparent"),
    ("squid", "delete"),
    ("http-proxy", "plain"),
    ("http-proxy-middleware", "plain"),
    ("http-proxy-3", "plain"),
    ("vite", "plain"),
}
#: Which write another header than X-Forwarded-For.
REAL_IP = {("nginx", "real-ip"), ("haproxy", "header-x-real-ip")}
#: Whose client comes by a socket that has no address, so that the header ends with the client's
#: own text: the proxy's address must be trusted for nothing then.
FROM_A_SOCKET = {("haproxy", "forwardfor"), ("haproxy", "set-header"), ("envoy", "edge")}


def group(kind: str, *names: str) -> dict[str, list[Row]]:
    """Return the rows of a kind by what they have in common."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in ROWS:
        if row["kind"] == kind:
            found[", ".join(str(row.get(name)) for name in names)].append(row)
    return found


def sources(row: Row) -> dict[str, Any]:
    """Return a row as a scope and as an environ, those that its interface has."""
    address, port = row["peer"]
    port = 40000 if port == "<port>" else port
    client = None if address in (None, "MISSING") else (address, port)
    peer = None if client is None else address
    received = [(name.removeprefix("HTTP_").replace("_", "-"), value) for name, value in sent(row)]
    interface = row.get("interface")
    environ = environ_of(peer, received, SERVER_SOFTWARE="x")
    found = {"asgi": scope_of(client=client, headers=received), "wsgi": environ}
    return found if interface is None else {interface: found[interface]}


def sent(row: Row) -> list[list[str]]:
    """Return the headers as they reached the app: a name with `_` is another header over ASGI."""
    own = row["kind"] == "server"
    return [pair for pair in row["received"] if own or "_" not in pair[0]]


def answers(row: Row, **options: Any) -> list[str | None]:
    """Return the address that each interface reports."""
    request_data = RequestData(include_ip=True, **options)
    return [request_data.ip_address(source) for source in sources(row).values()]


PROXIES = {
    name: rows
    for name, rows in group("proxy", "proxy", "config").items()
    if (rows[0]["proxy"], rows[0]["config"]) not in PASSING | REAL_IP
}


@pytest.mark.parametrize("rows", PROXIES.values(), ids=PROXIES)
def test_behind_a_proxy(rows: list[Row]) -> None:
    """Whatever the client sends, a proxy that writes the header tells whose it is."""
    for row in rows:
        key = row["proxy"], row["config"]
        if row["client"] in ("pp", "unix") or key == ("squid", "off"):
            continue
        trusted = ["loopback"] if row["peer"][0] in ("127.0.0.1", "::1") else ["unix"]
        assert set(answers(row, trusted_proxies=trusted)) == {row["expected"]}, row


@pytest.mark.parametrize("rows", PROXIES.values(), ids=PROXIES)
def test_behind_a_proxy_on_a_socket(rows: list[Row]) -> None:
    """Where the proxy itself is reached by a unix socket it knows nobody's address."""
    for row in rows:
        if row["client"] == "unix" and (row["proxy"], row["config"]) not in FROM_A_SOCKET:
            found = answers(row, trusted_proxies=["loopback"])
            assert set(found) <= {None, "127.0.0.1"}, row


@pytest.mark.parametrize("key", REAL_IP)
def test_behind_a_proxy_with_a_header_of_its_own(key: tuple[str, str]) -> None:
    """X-Real-IP is read where the proxy writes that; two of them are none."""
    for row in group("proxy", "proxy", "config")[", ".join(key)]:
        if row["client"] in ("tcp", "tcp6"):
            options = {"trusted_proxies": ["loopback"], "forwarded_header": "x-real-ip"}
            assert set(answers(row, **options)) <= {row["expected"], None}, row


# What is wrong with the rest is said in a warning, or can be seen by nobody.
FOLDED = {"uwsgi-http", "wsgiref", "hypercorn-wsgi", "cheroot", "pyvoy-wsgi"}
SERVERS = group("server", "server", "proxy", "client")


@pytest.mark.parametrize("rows", SERVERS.values(), ids=SERVERS)
def test_on_a_server(rows: list[Row]) -> None:
    """Each server of Python's hands on enough: the address is the client's, or none."""
    for row in rows:
        if row["peer"][0] == "MISSING" and row["server"] == "pyvoy-wsgi":
            continue  # told by a mark of its own, below
        if row["server"] in FOLDED and row["id"] == "e" and row["proxy"].startswith(("cad", "htt")):
            continue  # it has taken the client's X_Forwarded_For for the header
        trusts = "loopback" if row["peer"][0] == "127.0.0.1" else "unix"
        allowed = {row["expected"], None}
        if row["server"] == "waitress":
            allowed.add("127.0.0.1")  # it has removed the header, and is named
        if row["peer"] == ["unix:", ""]:
            continue  # nginx by uwsgi_pass: the header is the client's
        assert set(answers(row, trusted_proxies=[trusts])) <= allowed, row


#: What a chain needs beside the names of both; {}: the client's address is in none of its headers.
OPTIONS: dict[str, dict[str, Any]] = {
    "varnish>caddy(default)>app": {},
    "envoy(default)": {},
    "envoy(default)>nginx>app": {},
    "haproxy(tcp,send-proxy-v2)>nginx(proxy_protocol, $proxy_add)>app": {},
    "nginx>envoy(edge)>app, machine 192.0.2.77": {"trusted_proxies": ["loopback", "192.0.2.77"]},
    "envoy(edge), machine 192.0.2.77, client 127.0.0.1": {},
}
BOTH = {"trusted_proxies": ["loopback", "unix"]}
CHAINS = {name: rows for name, rows in group("chain", "chain").items() if OPTIONS.get(name) != {}}


@pytest.mark.parametrize("rows", CHAINS.values(), ids=CHAINS)
def test_behind_two_proxies(rows: list[Row]) -> None:
    """With both trusted the client's address is found, a unix socket between them included."""
    for row in rows:
        assert set(answers(row, **OPTIONS.get(row["chain"], BOTH))) == {row["expected"]}, row
