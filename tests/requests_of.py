"""The same request as an ASGI scope and as a WSGI environ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Headers = Iterable[tuple[str, str]]


def scope_of(peer: str | None = None, headers: Headers = (), **changes: Any) -> dict[str, Any]:
    """Build a scope as servers do: names in lower case, one pair for each header line."""
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "client": None if peer is None else (peer, 50000),
        "server": ("198.51.100.1", 80),
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers],
    }
    return scope | changes


def environ_of(peer: str | None = None, headers: Headers = (), **changes: Any) -> dict[str, Any]:
    """Build an environ as servers do: header lines of one name joined with a comma."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "wsgi.url_scheme": "http",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "198.51.100.1",
        "SERVER_PORT": "80",
    }
    if peer is not None:
        environ["REMOTE_ADDR"] = peer
    for name, value in headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ | changes
