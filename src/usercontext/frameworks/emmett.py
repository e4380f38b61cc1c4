"""Emmett: the middleware around an app, over ASGI and over RSGI, and a pipe within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from usercontext.asgi import UserContextMiddleware
from usercontext.core.lifecycle import RequestScope, Serving
from usercontext.core.record import RequestRecord
from usercontext.core.swallowed import fail_current
from usercontext.frameworks.base import check_app, check_first
from usercontext.optional import importing

with importing("emmett", "emmett", purpose="usercontext.frameworks.emmett"):
    from emmett import App, Pipe, current
    from emmett.asgi.wrappers import Request
    from emmett.http import HTTPResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.options import ContextOptions
    from usercontext.core.settings import JoinedSettings

__all__ = ["UserContext"]


def _request_of(source: Any) -> object:
    """Return the request that Emmett has made, or one of the same headers where it has not yet."""
    if isinstance(source, RequestScope):
        return source.request
    here = getattr(current, "request", None) or getattr(current, "websocket", None)
    if here is not None and here._scope is source:
        return here
    # As Emmett itself does before it makes one, of which `path` is cut by a prefix of the app.
    return Request({"emt.path": source["path"], **source}, None, None)


class UserContext(UserContextMiddleware):
    """Give every request and websocket of an Emmett app a user of its own.

    `application = UserContext(app, resolver=...)` is what the server is given, over ASGI or over
    RSGI. It stands between `app.pipeline = [...]` and the app's first route, to report the errors
    that Emmett answers with a 500.

    Args:
        app: the application.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with Emmett's `request` or `websocket`.

    Raises:
        ConfigurationError: it is not an Emmett app, or has a `UserContext` already, or an option is
            wrong; the message names the fix.
    """

    make_request: Callable[[Any], object] = staticmethod(_request_of)

    def __init__(self, app: Any, **options: Unpack[ContextOptions]) -> None:
        hint = "around another ASGI app write UserContextMiddleware(app) of usercontext.asgi"
        check_app(app, App, "an Emmett app", hint)
        check_first(any(isinstance(one, _Pipe) for one in app.pipeline))
        super().__init__(app, **options)
        app.pipeline = [_Pipe(self._joined), *app.pipeline]

    def __rsgi_init__(self, loop: Any) -> None:
        """Start the app, of which RSGI is the native interface."""
        self.app.__rsgi_init__(loop)  # type: ignore[attr-defined]

    def __rsgi__(self, scope: Any, protocol: Any) -> Any:
        """Serve a request, which the pipe gives its user."""
        return self.app.__rsgi__(scope, protocol)  # type: ignore[attr-defined]


class _Pipe(Pipe):  # type: ignore[misc]
    """Reports what Emmett answers, and opens the requests that come over RSGI."""

    def __init__(self, joined: JoinedSettings) -> None:
        self._joined = joined

    async def pipe(self, next_pipe: Callable[..., Any], **params: Any) -> Any:
        """Serve one request: the pipes behind this one, and the route."""
        request = getattr(current, "request", None) or current.websocket
        if not isinstance(request._scope, dict):
            record = RequestRecord.of(RequestScope(request, _RSGI), self._joined.joined)
            async with Serving(record, _is_error):
                return await next_pipe(**params)
        try:
            return await next_pipe(**params)
        except HTTPResponse:
            raise
        except Exception as error:
            await fail_current(error)
            raise


def _is_error(error: Exception) -> bool:
    """Tell errors from answers, which Emmett raises too."""
    return not isinstance(error, HTTPResponse)


def _headers_of(request: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in request._scope.headers.items()
    ]


def _client_of(request: Any) -> tuple[str, None] | None:
    host = (request._scope.client or "").rpartition(":")[0].strip("[]")
    return (host, None) if host else None


# Emmett's own `request.client` is the first X-Forwarded-For.
_RSGI: dict[str, Callable[[Any], Any]] = {
    "type": lambda request: "websocket" if request._scope.proto == "ws" else "http",
    "http_version": lambda request: request._scope.http_version,
    "method": lambda request: request._scope.method,
    "scheme": lambda request: request._scope.scheme,
    "path": lambda request: request._scope.path,
    "query_string": lambda request: request._scope.query_string.encode("latin-1", "replace"),
    "headers": _headers_of,
    "client": _client_of,
}
