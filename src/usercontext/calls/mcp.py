"""MCP: the user of every message, in servers of the official SDK, 1.x and 2.x."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Unpack

import mcp.server

from usercontext.calls.base import CallContext
from usercontext.core.messages import OWN
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

_PACKAGES: Final = ("mcp", "mcp_types", "fastmcp")
# What the SDK has made a result of, in the message that is served here.
_caught: ContextVar[BaseException | None] = ContextVar("usercontext.mcp", default=None)


class UserContext:
    """Give every message to an MCP server a user of its own, and report its unhandled errors.

    `UserContext(server)`, once, after the server is made: a `FastMCP` or `Server` of mcp 1.x, an
    `MCPServer` or `Server` of 2.x. Tools, resources and prompts find their caller by the HTTP
    request that brought this very message, whoever opened the session, over streamable HTTP and
    SSE; over stdio there is nobody, unless the resolver says so.

    Args:
        server: the server.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            server's app, or else from `init()`. The resolver is called with Starlette's
            `Request` of the message, or with None over stdio.

    Raises:
        ConfigurationError: an option is wrong, or the server has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, server: Any, **options: Unpack[ContextOptions]) -> None:
        lowlevel = _lowlevel(server)
        self._calls = CallContext(options)
        setattr(lowlevel, OWN, self)
        if hasattr(lowlevel, "middleware"):
            self._join_chain(lowlevel.middleware)
            self._watch_tools(server)
        else:
            lowlevel.request_handlers = _Handlers(lowlevel, self)
            lowlevel.notification_handlers = _NotificationHandlers(lowlevel, self)
            self._watch_results(lowlevel)

    def running(self, request: Any, method: str, name: object = None) -> RunningCall:
        """Return the run of one message, to be entered.

        Args:
            request: the HTTP request that brought it; None over stdio.
            method: the message's method, as in `tools/call`.
            name: the tool, resource or prompt.
        """
        scope = getattr(request, "scope", None)
        shown = method if name is None else f"{method} {name}"
        call = {"type": "mcp", "name": shown}
        return self._calls.running(scope, request, call, packages=_PACKAGES)

    # --- 2.x: a middleware of its own --------------------------------------------------------

    def _join_chain(self, chain: list[Any]) -> None:
        own = [type(one).__module__.partition(".")[0] == "mcp" for one in chain]
        # Inside of the SDK's own, whose span of the message is to have the user.
        chain.insert(own.index(False) if False in own else len(own), self._serve)

    async def _serve(self, context: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        name = (context.params or {}).get("name")
        running = self.running(context.request, context.method, name)
        return await _served(running, call_next, context)

    def _watch_tools(self, server: Any) -> None:
        call_tool = getattr(server, "call_tool", None)
        if call_tool is None:
            return

        async def call_watched(*args: Any, **options: Any) -> Any:
            # The SDK makes a result of it, which its middlewares see in the error's place.
            try:
                return await call_tool(*args, **options)
            except Exception as error:
                _caught.set(error)
                raise

        server.call_tool = call_watched

    # --- 1.x: its tables of handlers ---------------------------------------------------------

    def _watch_results(self, lowlevel: Any) -> None:
        make_error_result = lowlevel._make_error_result

        def make_reported(*args: Any, **options: Any) -> Any:
            # Called where the error of a tool is handled, and of arguments that do not fit.
            error = sys.exc_info()[1]
            if type(error).__module__.partition(".")[0] != "jsonschema":
                _caught.set(error)
            return make_error_result(*args, **options)

        lowlevel._make_error_result = make_reported


class _Handlers(dict[Any, Any]):
    """The handlers of a server of 1.x, each of them called inside of its message's own record."""

    _table: str = "request_handlers"

    def __init__(self, lowlevel: Any, own: UserContext) -> None:
        super().__init__(getattr(lowlevel, self._table))
        self._lowlevel = lowlevel
        self._own = own

    def get(self, kind: Any, default: Any = None) -> Any:
        handler = super().get(kind, default)
        return handler if handler is None else self._serving(handler)

    def _request(self) -> object:
        return self._lowlevel.request_context.request

    def _serving(self, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Any]:
        async def serve(message: Any) -> Any:
            name = getattr(message.params, "name", None)
            running = self._own.running(self._request(), message.method, name)
            return await _served(running, handler, message)

        return serve


class _NotificationHandlers(_Handlers):
    """The handlers of notifications, of which 1.x does not tell by which request they came."""

    _table = "notification_handlers"

    def _request(self) -> object:
        return None


def _lowlevel(server: Any) -> Any:
    """Return the server below a `FastMCP` or `MCPServer`, where messages arrive."""
    found = getattr(server, "_lowlevel_server", None) or getattr(server, "_mcp_server", server)
    if not isinstance(found, mcp.server.Server):
        raise ConfigurationError(
            f"UserContext takes a server of the MCP SDK, not {type(server).__name__}: write "
            'UserContext(server), where server = MCPServer("shop"), or FastMCP("shop") in mcp 1.x'
        )
    if hasattr(found, OWN):
        raise ConfigurationError(
            "this server has a UserContext already: keep one, and give it all options"
        )
    return found


async def _served(
    running: RunningCall, serve: Callable[[Any], Awaitable[Any]], message: Any
) -> Any:
    """Serve a message inside of its run, and report the error that its result stands for."""
    _caught.set(None)
    async with running:
        result = await serve(message)
        error = _caught.get()
        if error is not None and _is_error(result):
            await running.fail_async(error)
        return result


def _is_error(result: Any) -> bool:
    """Return whether a tool failed: one that calls another may go on after an error of that."""
    if isinstance(result, dict):
        return bool(result.get("isError", result.get("is_error")))
    found = getattr(result, "root", result)  # a model of 1.x
    return bool(getattr(found, "is_error", getattr(found, "isError", True)))
