"""FastMCP: the user of every message, in servers of fastmcp 3.x and 4.x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Unpack

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_http_request
from fastmcp.server.middleware import Middleware

from usercontext.calls.base import CallContext
from usercontext.core.messages import OWN
from usercontext.core.record import RequestRecord, current
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastmcp.server.middleware import MiddlewareContext

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

_PACKAGES: Final = ("fastmcp", "mcp", "mcp_types")


class UserContext:
    """Give every message to a FastMCP server a user of its own, and report its unhandled errors.

    `UserContext(server)`, once. Tools, resources and prompts find their caller by the HTTP request
    that brought this very message, whoever opened the session, over streamable HTTP and SSE; over
    stdio there is nobody, unless the resolver says so. `ToolError` and its like are answers.

    Args:
        server: the `fastmcp.FastMCP`; for the official SDK's there is `usercontext.calls.mcp`.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            server's app, or else from `init()`. The resolver is called with Starlette's
            `Request` of the message, or with None over stdio.

    Raises:
        ConfigurationError: an option is wrong, or the server has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, server: Any, **options: Unpack[ContextOptions]) -> None:
        _check(server)
        # First of all: what other middlewares do is of the message, too.
        server.middleware.insert(0, _Serving(CallContext(options)))
        setattr(server._mcp_server, OWN, self)


class _Serving(Middleware):  # type: ignore[misc]
    """The hook around every message."""

    def __init__(self, calls: CallContext) -> None:
        self._calls = calls
        self._open: set[RequestRecord] = set()

    async def on_message(
        self,
        context: MiddlewareContext[Any],
        call_next: Callable[[MiddlewareContext[Any]], Awaitable[Any]],
    ) -> Any:
        record = current()
        if record is not None and record.root in self._open:
            # A tool that calls another, or a server that is mounted in this one.
            return await call_next(context)
        return await self._serve(context, call_next)

    async def _serve(
        self,
        context: MiddlewareContext[Any],
        call_next: Callable[[MiddlewareContext[Any]], Awaitable[Any]],
    ) -> Any:
        request = _request()
        name = getattr(context.message, "name", None)
        method = str(context.method)
        call = {"type": "mcp", "name": method if name is None else f"{method} {name}"}
        scope = None if request is None else request.scope
        running = self._calls.running(scope, request, call, packages=_PACKAGES)
        self._open.add(running.record)
        try:
            async with running:
                return await call_next(context)
        finally:
            self._open.discard(running.record)


def _request() -> Any:
    """Return the HTTP request that brought this message; None over stdio."""
    try:
        return get_http_request()
    except RuntimeError:
        return None


def _check(server: object) -> None:
    if not isinstance(server, FastMCP):
        raise ConfigurationError(
            f"UserContext takes a fastmcp.FastMCP, not {type(server).__name__}: for servers of "
            "the official SDK write `from usercontext.calls.mcp import UserContext`"
        )
    if any(isinstance(one, _Serving) for one in server.middleware):
        raise ConfigurationError(
            "this server has a UserContext already: keep one, and give it all options"
        )
