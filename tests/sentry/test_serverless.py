"""On platforms that stop a process between requests, reports leave before the answer does."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.sentry.test_shutdown import UVICORN, ask_once, terminate
from usercontext.asgi import UserContextMiddleware
from usercontext.wsgi import UserContextMiddleware as WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sentry.server import SentryServer

EVENT = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/x",
    "rawQueryString": "",
    "headers": {"host": "shop.example"},
    "isBase64Encoded": False,
    "requestContext": {
        "stage": "$default",
        "http": {
            "method": "GET",
            "path": "/x",
            "protocol": "HTTP/1.1",
            "sourceIp": "203.0.113.9",
            "userAgent": "curl",
        },
    },
}


@contextmanager
def own_loop() -> Iterator[None]:
    """Give Mangum a loop that is closed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize("lifespan", ["on", "off", "auto"])
@pytest.mark.parametrize("flush", ["response", None])
@pytest.mark.parametrize("wraps", [True, False], ids=["around the app", "inside"])
def test_mangum(server: SentryServer, lifespan: str, flush: str | None, *, wraps: bool) -> None:
    """When a function's handler returns, the error of its request has arrived."""
    mangum = pytest.importorskip("mangum")
    fastapi = pytest.importorskip("fastapi")
    usercontext.init(server.dsn, flush=flush)
    app = fastapi.FastAPI()

    @app.get("/x")
    async def fails() -> None:
        raise KeyError("kettle")

    if not wraps:
        app.add_middleware(UserContextMiddleware)
    served: Any = UserContextMiddleware(app) if wraps else app
    with own_loop(), suppress(KeyError):
        mangum.Mangum(served, lifespan=lifespan)(EVENT, {})
    assert len(server.events) == 1


@pytest.mark.parametrize("adapter", ["apig-wsgi", "serverless-wsgi"])
def test_wsgi_adapters(server: SentryServer, adapter: str) -> None:
    """So it is for WSGI, without any option: Lambda's context tells where the request runs."""
    usercontext.init(server.dsn)

    @WSGIMiddleware
    def app(environ: Any, start_response: Any) -> list[bytes]:
        usercontext.capture_message("seen")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    if adapter == "apig-wsgi":
        handler = pytest.importorskip("apig_wsgi").make_lambda_handler(app)
        handler(EVENT, {})
    else:
        pytest.importorskip("serverless_wsgi").handle_request(app, EVENT, {})
    assert len(server.events) == 1


APP = """
import os
import fastapi, usercontext
from usercontext.asgi import UserContextMiddleware

usercontext.init(os.environ["DSN"], flush="response")
app = fastapi.FastAPI()

@app.get("/")
async def fails():
    raise KeyError("kettle")

app = UserContextMiddleware(app)
"""


def test_uvicorn(server: SentryServer, tmp_path: Any) -> None:
    """The client has the end of an error's answer only when the report has arrived."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from tests.sentry.test_processes import free_port
    from tests.sentry.test_shutdown import started

    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    command = tuple(part.format(port=port) for part in UVICORN)
    with started((*command, "app:app"), tmp_path, server.dsn) as process:
        ask_once(port)
        assert len(server.events) == 1
        terminate(process)
