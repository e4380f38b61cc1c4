"""django-bolt: a middleware for `BoltAPI`, whose server is Rust and knows neither ASGI nor WSGI."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core.context import configure, configure_joined
from usercontext.core.lifecycle import RequestScope, Serving
from usercontext.core.record import RequestRecord
from usercontext.optional import importing

with importing("django_bolt", "django_bolt", purpose="usercontext.frameworks.django_bolt"):
    from django_bolt.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext"]


def UserContext(**options: Unpack[ContextOptions]) -> type[Any]:  # noqa: N802 - a class, made
    """Make the middleware that gives every request of a `BoltAPI` a user of its own.

    It stands first: `BoltAPI(middleware=[UserContext(resolver=...), ...])`. Errors that django-bolt
    answers with a 500 are reported.

    Args:
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with django-bolt's `Request`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """
    own = configure(make_request=attrgetter("request"), **options)
    joined = configure_joined(own)

    class UserContextMiddleware(_Middleware):
        """The middleware with these options."""

        _joined = joined

    return UserContextMiddleware


class _Middleware:
    _joined: Any

    def __init__(self, get_response: Callable[[Any], Awaitable[Any]]) -> None:
        self._get_response = get_response

    async def __call__(self, request: Any) -> Any:
        """Serve one request, in a task of its own: whatever context the server calls us in."""
        return await asyncio.create_task(self._serve(request))

    async def _serve(self, request: Any) -> Any:
        record = RequestRecord.of(RequestScope(request, _PARTS), self._joined.joined)
        async with Serving(record, _is_error):
            return await self._get_response(request)


def _is_error(error: Exception) -> bool:
    """Tell errors from answers: an HTTPException below 500 is one."""
    return not isinstance(error, HTTPException) or error.status_code >= 500


def _headers_of(request: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
    ]


def _client_of(request: Any) -> tuple[str, None] | None:
    address = request.META.get("REMOTE_ADDR")
    return (address, None) if address else None


_PARTS: dict[str, Callable[[Any], Any]] = {
    "type": lambda _: "http",
    "method": lambda request: request.method,
    "path": lambda request: request.path,
    "query_string": lambda request: (request.META.get("QUERY_STRING") or "").encode(),
    "headers": _headers_of,
    "client": _client_of,
}
