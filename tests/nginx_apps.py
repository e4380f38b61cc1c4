"""The apps behind nginx in tests/test_nginx.py: each answers with the user that it reported."""

from __future__ import annotations

import json
from typing import Any

import usercontext
from usercontext import RequestData
from usercontext.asgi import UserContextMiddleware as ASGIMiddleware
from usercontext.testing import RecordingClient
from usercontext.wsgi import UserContextMiddleware as WSGIMiddleware

#: The addresses that nginx connects from; its clients come from another one.
PROXIES = ["127.0.0.3", "127.0.0.4", "unix"]
BY_PATH = {
    "/x-forwarded-for": RequestData(include_ip=True, trusted_proxies=PROXIES),
    "/forwarded": RequestData(
        include_ip=True, trusted_proxies=PROXIES, forwarded_header="forwarded"
    ),
    "/x-real-ip": RequestData(
        include_ip=True, trusted_proxies=PROXIES, forwarded_header="x-real-ip"
    ),
}

recorder = RecordingClient()
usercontext.init(client=recorder)


def _reported() -> bytes:
    recorder.clear()
    usercontext.capture_message("seen")
    return json.dumps(recorder.events[-1].get("user")).encode()


async def _asgi(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": _reported()})


def _wsgi(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [_reported()]


_asgi_apps = {path: ASGIMiddleware(_asgi, request_data=data) for path, data in BY_PATH.items()}
_wsgi_apps = {path: WSGIMiddleware(_wsgi, request_data=data) for path, data in BY_PATH.items()}


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer through the middleware that the path chooses."""
    await _asgi_apps[scope["path"]](scope, receive, send)


def wsgi_app(environ: Any, start_response: Any) -> Any:
    """Answer through the middleware that the path chooses."""
    return _wsgi_apps[environ["PATH_INFO"]](environ, start_response)
