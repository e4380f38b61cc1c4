"""Tries a DSN, step by step, and says what answered and what to mend."""

from __future__ import annotations

import json
import socket
import ssl
from time import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from uuid import uuid4

from usercontext.inspector.answers import advice
from usercontext.sentry.client import SentryClient
from usercontext.sentry.delivery.build import HttpOptions
from usercontext.sentry.delivery.compression import compressed
from usercontext.sentry.delivery.envelope import build_envelope
from usercontext.sentry.delivery.network import NetworkError
from usercontext.sentry.delivery.reading import read_reports
from usercontext.sentry.dsn import Dsn, sqlite_path
from usercontext.sentry.event.builder import SDK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.types import Event

__all__ = ["Step", "verify"]

_TIMEOUT = 10.0
_MESSAGE = "usercontext verify: reports arrive here"


class Step(NamedTuple):
    """Something that was tried."""

    name: str
    is_good: bool
    found: str
    #: What to do about it; empty if it is good.
    advice: str = ""


def verify(dsn: str) -> Iterator[Step]:
    """Try a DSN, and send one event to it; end with the first step that fails.

    Raises:
        ConfigurationError: the DSN is none.
    """
    path = sqlite_path(dsn)
    if path is not None:
        yield _kept(dsn, path)
        return
    server = Dsn(dsn)
    for step in _steps(server):
        yield step
        if not step.is_good:
            return


def _kept(dsn: str, path: str) -> Step:
    event = _event()
    client = SentryClient(dsn)
    client.send(event)
    client.close(_TIMEOUT)
    if any(report["event_id"] == event["event_id"] for report in read_reports(path)):
        return Step("file", True, f"{path} keeps event {event['event_id']}")
    return Step("file", False, f"{path} did not keep it", "see the log of `usercontext`")


def _event() -> Event:
    return {
        "event_id": uuid4().hex,
        "timestamp": round(time(), 6),
        "platform": "python",
        "level": "info",
        "environment": "verify",
        "logentry": {"message": _MESSAGE, "formatted": _MESSAGE},
        "user": {"id": "usercontext-verify"},
        "sdk": {**SDK, "settings": {"infer_ip": "never"}},
    }


def _steps(dsn: Dsn) -> Iterator[Step]:
    yield Step("DSN", True, f"project {dsn.project} at {dsn.host}")
    proxy = _proxy(dsn)
    if proxy:
        yield Step("proxy", True, f"{proxy}, as the environment says: it looks the server up")
    else:
        yield from _connection_steps(dsn)
    yield _sent(dsn)


def _proxy(dsn: Dsn) -> str:
    proxies = getproxies()
    found = proxies.get(urlsplit(dsn.endpoint).scheme) or proxies.get("all") or ""
    # Without what may be a password.
    return "" if proxy_bypass(dsn.host) else found.rpartition("@")[2]


def _connection_steps(dsn: Dsn) -> Iterator[Step]:
    parts = urlsplit(dsn.endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    step, addresses = _looked_up(dsn.host, port)
    yield step
    if not addresses:
        return
    step, connected = _connected(dsn.host, port)
    yield step
    if connected is None:
        return
    with connected:
        if parts.scheme == "https":
            yield _secured(dsn.host, connected)


def _looked_up(host: str, port: int) -> tuple[Step, list[str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        told = f"{host} cannot be looked up: {error.strerror or error}"
        return Step("DNS", False, told, "check the host in the DSN, and this machine's DNS"), []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Step("DNS", True, f"{host} is {', '.join(addresses[:4])}"), addresses


def _connected(host: str, port: int) -> tuple[Step, socket.socket | None]:
    try:
        connected = socket.create_connection((host, port), _TIMEOUT)
    except ConnectionRefusedError:
        told, what = "refused", "nothing listens there: check the port, and that the server runs"
    except TimeoutError:
        told, what = "no answer", "a firewall may drop it: let this machine out to that port"
    except OSError as error:
        told, what = str(error.strerror or error), "check this machine's network"
    else:
        return Step("connection", True, f"port {port} is open"), connected
    return Step("connection", False, f"port {port}: {told}", what), None


def _secured(host: str, connected: socket.socket) -> Step:
    try:
        with ssl.create_default_context().wrap_socket(connected, server_hostname=host) as secured:
            return Step("TLS", True, f"{secured.version()}, the certificate is {host}'s")
    except ssl.SSLCertVerificationError as error:
        what = "give init() the file of your authority's certificates as ca_certs="
        return Step("TLS", False, f"the certificate is not trusted: {error.verify_message}", what)
    except OSError as error:
        what = "the server may speak plain HTTP at this port: write http:// in the DSN"
        return Step("TLS", False, f"no handshake: {error}", what)


def _sent(dsn: Dsn) -> Step:
    event = _event()
    payload = json.dumps(event).encode()
    body = build_envelope(event["event_id"], payload, dsn=dsn.public)
    server = HttpOptions(timeout=_TIMEOUT).connection(dsn)
    try:
        status, _ = server.exchange(*compressed(body))
    except NetworkError as error:
        return Step("event", False, error.reason, "see whether a proxy is in between")
    finally:
        server.close()
    if 200 <= status < 300:
        return Step("event", True, f"{status}, taken as {event['event_id']}")
    return Step("event", False, f"the server answered {status}", advice(status))
