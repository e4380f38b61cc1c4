"""Connect: the errors of its RPCs, with the user of the request that each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from connectrpc.errors import ConnectError

from usercontext.calls.base import CallContext, RunningCall, describe, environ_of
from usercontext.core.lifecycle import is_open
from usercontext.core.record import current

if TYPE_CHECKING:
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]


class UserContext:
    """Report what the handlers of a Connect service raise, with who has called them.

    `ShopASGIApplication(service, interceptors=[UserContext()])`, inside of a middleware, and
    likewise for a `ShopWSGIApplication`. Connect answers every error itself, so that no
    middleware sees it. The RPC has the user of its HTTP request; with a resolver here, its own.
    A `ConnectError` is an answer.

    Args:
        options: see `ContextOptions`; what is left out comes from the middleware around the
            app, or else from `init()`. The resolver is called with Connect's `RequestContext`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.

    .. versionadded:: 0.1.0
    """

    def __init__(self, **options: Unpack[ContextOptions]) -> None:
        self._calls = CallContext(options)

    async def on_start(self, ctx: Any) -> RunningCall:
        """Begin an RPC over ASGI."""
        return await self._running(ctx).__aenter__()

    async def on_end(self, token: RunningCall, ctx: Any, error: Exception | None) -> None:
        """End an RPC over ASGI, and report its error."""
        del ctx
        await token.__aexit__(None, error, None)

    def on_start_sync(self, ctx: Any) -> RunningCall:
        """Begin an RPC over WSGI."""
        return self._running(ctx).__enter__()

    def on_end_sync(self, token: RunningCall, ctx: Any, error: Exception | None) -> None:
        """End an RPC over WSGI, and report its error."""
        del ctx
        token.__exit__(None, error, None)

    def _running(self, ctx: Any) -> RunningCall:
        method = f"/{ctx.method.service_name}/{ctx.method.name}"
        call = {"type": "connectrpc", "name": method}
        outer = current()
        if is_open(outer) and not self._calls.has_resolver:
            describe(outer, call)
            return RunningCall(outer, is_error=_is_error, is_own=False)
        source = outer.root.source if is_open(outer) else _environ_of(method, ctx)
        return self._calls.running(source, ctx, call, is_error=_is_error)


def _environ_of(method: str, ctx: Any) -> dict[str, Any]:
    address = (ctx.client_address or "").rpartition(":")[0]
    return environ_of(method, address or None, ctx.request_headers.allitems())


def _is_error(error: BaseException) -> bool:
    """Leave out what the client is told on purpose."""
    return isinstance(error, Exception) and not isinstance(error, ConnectError)
