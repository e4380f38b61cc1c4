"""What stands outside our middleware: it must never see a request's user.

A server runs the next request in whatever context the last one left behind, and so does this
code; were only the inside looked at, a fresh record for every request would hide what leaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import usercontext

from .scenes import observe, who

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .scenes import Headers

#: Shows that the tests reach the server that they started.
SERVER_TOKEN = os.environ["SERVER_TOKEN"]


def _named(user: str | None) -> str:
    return "nobody" if user is None else user


class OutsideASGI:
    """Wraps a whole ASGI app, as a server does."""

    def __init__(self, app: Any, variants: dict[str, Any] | None = None) -> None:
        self.app = app
        self.variants = variants or {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on to the variant of the app that its path begins with."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        before = _named(who(resolve=False))
        watch = _Watch(receive, send, before)
        app, scope = self._variant(scope)
        try:
            await app(scope, watch.receive, watch.send)
        except Exception as error:
            observe(headers, "outer reporter", who(error=error))
            raise
        finally:
            observe(headers, "outside", sorted({*watch.seen, _named(who(resolve=False))}))
            if "x-flush" in headers:
                observe(headers, "flushed", await asyncio.to_thread(usercontext.flush, 5.0))

    def _variant(self, scope: Any) -> tuple[Any, Any]:
        for prefix, app in self.variants.items():
            if scope["path"].startswith(prefix + "/"):
                path = scope["path"][len(prefix) :]
                return app, {**scope, "path": path, "raw_path": path.encode()}
        return self.app, scope


class _Watch:
    """Looks at the user where the server's own code runs."""

    def __init__(self, receive: Any, send: Any, before: str) -> None:
        self.seen = {before}
        self._before = before
        self._receive, self._send = receive, send

    async def receive(self) -> Any:
        """Note who is seen where the server waits for the next message."""
        self.seen.add(_named(who(resolve=False)))
        return await self._receive()

    async def send(self, message: Any) -> None:
        """Note who is seen where the server ends a response."""
        if message["type"] == "http.response.start":
            message = {
                **message,
                "headers": [
                    *message.get("headers", []),
                    (b"x-outside", self._before.encode()),
                    (b"x-server", SERVER_TOKEN.encode()),
                ],
            }
        ends = message["type"] == "http.response.body" and not message.get("more_body")
        if ends or message["type"] == "websocket.close":
            self.seen.add(_named(who(resolve=False)))
        await self._send(message)


@contextlib.asynccontextmanager
async def watched(headers: Headers) -> AsyncIterator[dict[str, str]]:
    """Stand around our part of a request, in a framework that has a server of its own.

    Gives the headers that the response must have. Let it begin where the framework's own code
    calls what is ours, and end where that has returned.
    """
    before = _named(who(resolve=False))
    try:
        yield {"x-outside": before, "x-server": SERVER_TOKEN}
    finally:
        observe(headers, "outside", sorted({before, _named(who(resolve=False))}))
        if "x-flush" in headers:
            observe(headers, "flushed", await asyncio.to_thread(usercontext.flush, 5.0))


class OutsideWSGI:
    """Wraps a whole WSGI app, as a server does."""

    def __init__(self, app: Any, variants: dict[str, Any] | None = None) -> None:
        self.app = app
        self.variants = variants or {}

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Pass the request on to the variant of the app that its path begins with."""
        headers = {"x-id": environ["HTTP_X_ID"]} if "HTTP_X_ID" in environ else {}
        flush = "HTTP_X_FLUSH" in environ
        path = environ["PATH_INFO"]
        before = _named(who(resolve=False))

        def started(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Any:
            fields = [*fields, ("x-outside", before), ("x-server", SERVER_TOKEN)]
            return start_response(status, fields, *filter(None, [exc_info]))

        try:
            body = self._variant(environ)(environ, started)
        except Exception as error:
            observe(headers, "outer reporter", who(error=error))
            _flush(headers, flush)
            raise
        seen = {before, _named(who(resolve=False))}
        if path.startswith("/raw/file"):
            observe(headers, "file wrapper kept", environ.get("tests.file", body) is body)
            observe(headers, "outside", sorted(seen))
            return body
        return _WatchedBody(body, headers, seen, flush)

    def _variant(self, environ: Any) -> Any:
        for prefix, app in self.variants.items():
            if environ["PATH_INFO"].startswith(prefix + "/"):
                environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix) :]
                return app
        return self.app


class _WatchedBody:
    """A response's body, and who is seen between its chunks and after its end."""

    def __init__(self, body: Any, headers: Any, seen: set[str], flush: bool) -> None:
        self._body, self._headers, self._seen, self._flush = body, headers, seen, flush

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._seen.add(_named(who(resolve=False)))
            yield chunk

    def close(self) -> None:
        """Close the body; tell who was seen."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._seen.add(_named(who(resolve=False)))
            observe(self._headers, "outside", sorted(self._seen))
            _flush(self._headers, self._flush)


def _flush(headers: Any, wanted: bool) -> None:
    if wanted:
        observe(headers, "flushed", usercontext.flush(5.0))
