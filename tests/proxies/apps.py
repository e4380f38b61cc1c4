"""The apps behind the proxies: each answers with the address that it found, and what it got."""

from __future__ import annotations

import json
import os
from typing import Any

import usercontext
from usercontext import RequestData, get_client_address
from usercontext.asgi import UserContextMiddleware as ASGIMiddleware
from usercontext.wsgi import UserContextMiddleware as WSGIMiddleware

_OPTIONS = RequestData(include_ip=True, **json.loads(os.environ["OPTIONS"]))
_SHOWN = ("x-forwarded-for", "forwarded", "x-real-ip", "x_forwarded_for")

usercontext.init(None, request_data=_OPTIONS)


def _answer(lines: list[tuple[str, str]]) -> bytes:
    found = get_client_address()
    address = None if found is None else found.address
    return json.dumps({"address": address, "received": lines}).encode()


async def _asgi(scope: Any, _receive: Any, send: Any) -> None:
    lines = [(name.decode().lower(), value.decode()) for name, value in scope["headers"]]
    body = _answer([pair for pair in lines if pair[0] in _SHOWN])
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _wsgi(environ: Any, start_response: Any) -> list[bytes]:
    keys = {name: "HTTP_" + name.upper().replace("-", "_") for name in _SHOWN[:3]}
    body = _answer([(name, environ[key]) for name, key in keys.items() if key in environ])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


_asgi_with_users = ASGIMiddleware(_asgi)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer requests, and no other connection."""
    if scope["type"] != "http":
        raise RuntimeError("this app has no lifespan")
    await _asgi_with_users(scope, receive, send)


wsgi_app = WSGIMiddleware(_wsgi)
