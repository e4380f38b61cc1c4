"""Drive an ASGI or WSGI app in this process, as a server does, without any other package."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import TYPE_CHECKING, Any

from tests import requests_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = [
    "asgi_call",
    "asgi_request",
    "environ_of",
    "plain_asgi_app",
    "plain_wsgi_app",
    "scope_of",
    "wsgi_request",
]


def scope_of(*, client: str | None = "203.0.113.9", **headers: str) -> dict[str, Any]:
    """Make the scope of a GET; header names are keywords with `_` for `-`."""
    return requests_of.scope_of(
        client,
        [("host", "shop.example"), *((n.replace("_", "-"), v) for n, v in headers.items())],
        asgi={"version": "3.0", "spec_version": "2.4"},
        http_version="1.1",
        scheme="https",
        path="/cart",
        raw_path=b"/cart",
        root_path="",
        server=("127.0.0.1", 443),
        state={},
    )


def environ_of(*, client: str = "203.0.113.9", **headers: str) -> dict[str, Any]:
    """Make the environ of a GET; header names are keywords with `_` for `-`."""
    changes = {
        "PATH_INFO": "/cart",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    return requests_of.environ_of(client, [("host", "shop.example"), *headers.items()], **changes)


async def asgi_call(app: Any, scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Serve one request within a running loop; return the messages that the app sent."""
    sent: list[dict[str, Any]] = []
    body = [{"type": "http.request", "body": b"", "more_body": False}]
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        if body:
            return body.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await app(scope, receive, send)
    return sent


def asgi_request(app: Any, scope: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Serve one request in a loop of its own; return the messages that the app sent."""
    return asyncio.run(asgi_call(app, scope_of() if scope is None else scope))


def plain_asgi_app(handler: Callable[[], Any] | Callable[[], Awaitable[Any]]) -> Any:
    """Make an app that answers `ok` once a handler without arguments has run."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        result = handler()
        if asyncio.iscoroutine(result):
            await result
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


def plain_wsgi_app(handler: Callable[[], Any]) -> Any:
    """Make an app that answers `ok` once a handler without arguments has run."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        handler()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return app


def wsgi_request(app: Any, environ: dict[str, Any] | None = None) -> bytes:
    """Serve one request and close its body; return the body."""
    body = app(environ_of() if environ is None else environ, lambda *_: lambda _data: None)
    try:
        return b"".join(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
