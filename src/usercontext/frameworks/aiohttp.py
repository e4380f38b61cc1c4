"""aiohttp: a middleware for `web.Application`, which its own server or gunicorn runs."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core.context import configure, configure_joined
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import (
    RequestScope,
    Serving,
    flush_at_end,
    serving_inside,
    started,
)
from usercontext.core.record import KEY, RequestRecord
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import identity_of, open_record_in, record_in
from usercontext.optional import importing

with importing("aiohttp", "aiohttp", purpose="usercontext.frameworks.aiohttp"):
    from aiohttp import web
    from aiohttp.payload import Payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "UserContextMiddleware", "request_user", "setup"]

# From 3.14 on aiohttp warns of keys that are text. Unlike attributes, clones of a request share it.
_KEY: Any = web.RequestKey(KEY, RequestRecord) if hasattr(web, "RequestKey") else KEY


def _held(source: Any, _request: object) -> object:
    request: Any = source.request if isinstance(source, RequestScope) else {}
    return request.get("user", NOT_YET)


def _places(source: Any, _request: object) -> Places:
    return [(source.request._state, "user")]


@follows(_held, _places)
def request_user(request: web.Request) -> object:
    """Return who the app's own middleware put in `request["user"]`: a ready resolver.

    Until that has happened the question stays open, and later what stands there is followed. Of a
    mapping only the four fields and `name` are taken, as of an object.
    """
    return identity_of(request.get("user", NOT_YET))


class UserContextMiddleware:
    """Give every request and websocket of an aiohttp app a user of its own.

    It stands first: `web.Application(middlewares=[UserContext(...), ...])`. `setup`
    does that and more. A body that the app's code produces as it is sent, such as an async
    generator, is sent inside of it, before a middleware further out gets the response.

    Args:
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with aiohttp's `web.Request`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    # What `@web.middleware` marks a function with.
    __middleware_version__ = 1

    def __init__(self, **options: Unpack[ContextOptions]) -> None:
        self._own = configure(make_request=attrgetter("request"), **options)
        self._joined = configure_joined(self._own)

    async def __call__(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Serve one request."""
        source = RequestScope(request, _PARTS)
        # Mostly nothing stands in a request as yet, which it finds out by an error.
        found = open_record_in(request, _KEY) if len(request) else None
        if found is not None:
            vars(request)[KEY] = found
            async with serving_inside(self._own, found, source):
                return await handler(request)
        record = RequestRecord.of(source, self._joined.joined)
        request[_KEY] = vars(request)[KEY] = record
        async with Serving(record, lambda error: _is_error(request, error)):
            try:
                response = await handler(request)
            except web.HTTPException:
                await started(record)
                raise
            if getattr(response, "prepared", True):
                return response
            if record.settings.recording:
                await started(record)
            if _runs_code(response):
                await _send(request, response)
            return response


#: The name that every framework's entry point has.
UserContext = UserContextMiddleware


def setup(app: web.Application, **options: Unpack[ContextOptions]) -> None:
    """Put the middleware first in an app, and send what waits for the built-in client at its end.

    Unlike the middleware alone it also hands clients that started the user before a stream or a
    websocket starts.

    Args:
        app: the application, before it runs; one that is added to another with `add_subapp`
            may have options of its own.
        options: as for `UserContextMiddleware`.

    Raises:
        ConfigurationError: an option is wrong, or the app has been set up, or has started; the
            message names the fix.
    """
    _check(app)
    app.middlewares.insert(0, UserContextMiddleware(**options))
    app.on_response_prepare.append(_push_at_start)
    app.on_cleanup.append(_flush)


def _check(app: object) -> None:
    if not isinstance(app, web.Application):
        raise ConfigurationError(
            f"setup() takes a web.Application, not {type(app).__name__}: write setup(app), where "
            "app = web.Application()"
        )
    if any(isinstance(one, UserContextMiddleware) for one in app.middlewares):
        raise ConfigurationError(
            "this app has a UserContextMiddleware already: give all options to one setup(); an "
            "app that is added to it with add_subapp() may have one of its own"
        )
    if app.frozen:
        raise ConfigurationError(
            "the app has started, and its middlewares are fixed: call setup(app) where the app "
            "is made, before it runs or is added to another"
        )


async def _push_at_start(request: web.Request, _response: web.StreamResponse) -> None:
    record = record_in(request, _KEY)
    if record is not None and record.settings.recording:
        await started(record)


async def _flush(_app: web.Application) -> None:
    await flush_at_end()


def _is_error(request: web.Request, error: Exception) -> bool:
    """Tell errors from answers, and from the news that the client has gone away."""
    if isinstance(error, ConnectionError):
        transport = request.transport
        return transport is not None and not transport.is_closing()
    return not isinstance(error, web.HTTPException)


def _runs_code(response: web.StreamResponse) -> bool:
    """Return whether code of the app may run as a response is sent."""
    if isinstance(response, web.Response):
        body: object = response.body
        return type(body) is not bytes and isinstance(body, Payload)
    return not isinstance(response, web.FileResponse)


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Send a response as aiohttp would after its middlewares; it then finds it sent."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        # The client has gone away: aiohttp meets the same error again, and knows what to do.
        return


def _client_of(request: web.Request) -> tuple[str, None] | None:
    # A unix socket's peer has an empty address.
    return (request.remote, None) if request.remote else None


def _server_of(request: web.Request) -> Any:
    transport = request.transport
    name = None if transport is None else transport.get_extra_info("sockname")
    return name[:2] if isinstance(name, tuple) else None


def _headers_of(request: web.Request) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in request.raw_headers]


_PARTS: dict[str, Callable[[web.Request], Any]] = {
    "type": lambda _: "http",
    "http_version": lambda request: f"{request.version.major}.{request.version.minor}",
    "method": lambda request: request.method,
    "scheme": lambda request: request.scheme,
    "path": lambda request: request.path,
    "query_string": lambda request: request.rel_url.raw_query_string.encode("latin-1", "replace"),
    "headers": _headers_of,
    "client": _client_of,
    "server": _server_of,
}
