"""Robyn: handlers of an app each with a user of its own; its server is Rust, and knows no ASGI."""

from __future__ import annotations

import asyncio
import inspect
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlencode

from usercontext.core.context import configure, configure_joined
from usercontext.core.lifecycle import RequestScope, Serving
from usercontext.core.record import RequestRecord
from usercontext.frameworks.base import check_app, check_first, check_waiting
from usercontext.optional import importing

with importing("robyn", "robyn", purpose="usercontext.frameworks.robyn"):
    from robyn import BaseRobyn, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]

# By these names, too, Robyn hands a handler its request.
_NAMES = frozenset({"r", "req", "request"})


class UserContext:
    """Give every request of a Robyn app a user of its own, and report its unhandled errors.

    `UserContext(app, resolver=...)` before the app's routes are added, or with an app factory
    `context = UserContext(resolver=...)` and `context.init_app(app)`. A `SubRouter` is an app of
    its own. What a plain `def` handler does runs in a thread of the event loop's executor. The
    generator of a `StreamingResponse` runs when the request is over: hand over
    `usercontext.bind(function)`.

    Args:
        app: the application; None where `init_app` is called later.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with Robyn's `Request`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, app: Any = None, **options: Unpack[ContextOptions]) -> None:
        self._own = configure(make_request=attrgetter("request"), **options)
        self._joined = configure_joined(self._own)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Serve every handler that is added to an app from here on.

        Raises:
            ConfigurationError: it is not a Robyn app, has routes, or has a `UserContext` already.
        """
        hint = "around an ASGI app write UserContextMiddleware(app) of usercontext.asgi"
        check_app(app, BaseRobyn, "a Robyn app or a SubRouter", hint)
        check_first("add_route" in vars(app))
        hint = "write UserContext(app) before the first @app.get"
        check_waiting(app.router.get_routes(), app="this app with routes", hint=hint)
        add_route = app.add_route

        @wraps(add_route)
        def add(route_type: Any, endpoint: Any, handler: Any, *more: Any, **options: Any) -> Any:
            return add_route(route_type, endpoint, self._around(handler), *more, **options)

        app.add_route = add

    def _around(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler that Robyn hands its request, which the app's own need not take."""
        signature = inspect.signature(handler)
        is_added = not any(
            one.annotation is Request or name in _NAMES
            for name, one in signature.parameters.items()
        )

        @wraps(handler)
        async def serve(*args: Any, **params: Any) -> Any:
            request = params.pop("request", None) if is_added else _request_in(args, params)
            if request is None:  # of a constant route, whose answer is made once
                return await _call(handler, args, params)
            record = RequestRecord.of(RequestScope(request, _PARTS), self._joined.joined)
            async with Serving(record):
                return await _call(handler, args, params)

        if is_added:
            ours = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
            parameters = [*signature.parameters.values(), ours]
            serve.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return serve


async def _call(handler: Callable[..., Any], args: Any, params: Any) -> Any:
    if inspect.iscoroutinefunction(handler):
        return await handler(*args, **params)
    return await asyncio.to_thread(handler, *args, **params)


def _request_in(args: tuple[Any, ...], params: dict[str, Any]) -> Any:
    return next((one for one in (*args, *params.values()) if isinstance(one, Request)), None)


def _headers_of(request: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, values in request.headers.get_headers().items()
        for value in values
    ]


def _query_of(request: Any) -> bytes:
    return urlencode(request.query_params.to_dict(), doseq=True).encode()


_PARTS: dict[str, Callable[[Any], Any]] = {
    "type": lambda _: "http",
    "method": lambda request: request.method,
    "scheme": lambda request: request.url.scheme,
    "path": lambda request: request.url.path,
    "query_string": _query_of,
    "headers": _headers_of,
    "client": lambda request: (request.ip_addr, None) if request.ip_addr else None,
}
