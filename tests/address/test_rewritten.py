"""A peer that a server has rewritten: who did so is said by name only where the scope tells."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from tests.requests_of import scope_of
from usercontext.address.client import ProxyTrust
from usercontext.address.rewritten import advice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = {"uvicorn", "daphne", "Mangum", "pyvoy"}
APP = """
import logging
from usercontext.address.rewritten import advice

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    told = advice(scope).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told})
"""
STARTED = {
    "uvicorn": ["-m", "uvicorn", "app:app", "--log-level", "error", "--port"],
    "daphne": ["-m", "daphne", "app:app", "--proxy-headers", "-v", "0", "-p"],
    "pyvoy": [
        *("-c", "from pyvoy._cli import main; main()"),
        *("app:app", "--no-lifespan", "--port"),
    ],
}


def named(text: str) -> set[str]:
    """Return the servers that a warning names."""
    return {name for name in NAMES if name in text}


@pytest.fixture
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Start a server, and return what is said of a request with a forwarding header."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *STARTED[request.param], str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as server:
        try:
            yield asked(port)
        finally:
            server.send_signal(signal.SIGTERM)


def asked(port: int) -> str:
    """Return what the app answers, as soon as it does."""
    for _ in range(400):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/", headers={"X-Forwarded-For": "203.0.113.9"})
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            connection.close()
    pytest.fail("the server did not start")


@pytest.mark.parametrize(("told", "name"), [(n, n) for n in STARTED], indirect=["told"])
def test_a_real_server_is_named(told: str, name: str) -> None:
    """By what it puts into its scopes."""
    assert named(told) == {name}


def test_mangum_is_named() -> None:
    """By the event of AWS, as behind an API Gateway."""
    mangum = pytest.importorskip("mangum")
    said: list[str] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        said.append(advice(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    http = {"method": "GET", "path": "/", "sourceIp": "203.0.113.9", "protocol": "HTTP/1.1"}
    event = {
        "version": "2.0",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"host": "shop.example"},
        "requestContext": {"http": http, "stage": "$default"},
        "isBase64Encoded": False,
    }
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        mangum.Mangum(app, lifespan="off")(event, object())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert named(said[0]) == {"Mangum"}


UNKNOWN: dict[str, Any] = {
    "nothing tells": {},
    "a tuple, as most have it": {"asgi": {"version": "3.0"}},
    "another version of ASGI": {"asgi": {"version": "3.0", "spec_version": "2.9"}, "state": {}},
    "no state": {"asgi": {"version": "3.0", "spec_version": "2.3"}},
    "junk": {"asgi": "3.0", "extensions": None},
}


@pytest.mark.parametrize("parts", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_server_has_no_name(parts: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What helps is said all the same, once."""
    for _ in range(2):
        ProxyTrust().locate({**scope_of(client=("203.0.113.9", 0)), **parts})
    assert named(caplog.text) == set()
    assert caplog.text.count("give trusted_proxies") == 1
