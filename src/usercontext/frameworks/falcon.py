"""Falcon: its own request for the resolver, and the errors that it turns into responses itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, overload

from usercontext import asgi, wsgi
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import fail, fail_now
from usercontext.core.passage import attach
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import identity_of, open_record_in
from usercontext.optional import importing

with importing("falcon", "falcon", purpose="usercontext.frameworks.falcon"):
    import falcon
    import falcon.asgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.core.record import RequestRecord
    from usercontext.types import Environ, StartResponse, WSGIApp

__all__ = ["UserContext", "request_user", "wrap"]

# Where Falcon's own request stands in the environ while Falcon serves it.
_REQUEST = "usercontext.falcon"


def _held(source: Any, request: Any) -> object:
    if request is None:
        request = None if source is None else source.get(_REQUEST)
    return NOT_YET if request is None else getattr(request.context, "user", NOT_YET)


def _places(source: Any, request: Any) -> Places:
    return [(vars((request or source[_REQUEST]).context), "user")]


@follows(_held, _places)
def request_user(request: Any) -> object:
    """Return the user that the app put into `req.context.user`: a ready resolver.

    Falcon knows no users: an authenticating middleware of the app does, and that is where
    Falcon's own documentation has it leave them. Until then the question stays open, and later
    what stands there is followed. Of a mapping, such as the claims of a token, only the fields
    of a `User` are taken.
    """
    return identity_of(_held(None, request))


@overload
def wrap(  # type: ignore[overload-overlap]
    app: falcon.asgi.App[Any, Any], **options: Unpack[ContextOptions]
) -> asgi.UserContextMiddleware: ...


@overload
def wrap(
    app: falcon.App[Any, Any], **options: Unpack[ContextOptions]
) -> wsgi.UserContextMiddleware: ...


def wrap(
    app: Any, **options: Unpack[ContextOptions]
) -> asgi.UserContextMiddleware | wsgi.UserContextMiddleware:
    """Give every request of a Falcon app a user of its own, and report its unhandled errors.

    Serve what it returns: `application = wrap(app, resolver=...)`. An error that only Falcon's
    handler of `Exception` takes, or one of yours that answers it with a 500, is reported; an error
    that another handler takes is handled.

    Args:
        app: a `falcon.App` or a `falcon.asgi.App`.
        options: see `ContextOptions`. The resolver is called with Falcon's own request, with its
            `context`; `request_user` of this module reads that.

    Raises:
        ConfigurationError: an option is wrong, or the app is none of Falcon's; the message names
            the fix.
    """
    served: Any = app
    if isinstance(app, falcon.asgi.App):
        around_asgi = _ASGIMiddleware(served, **options)
        _watch(app, _reporting_async)
        return around_asgi
    if isinstance(app, falcon.App):
        around_wsgi = _WSGIMiddleware(_letting_go(served), **options)
        _watch(app, _reporting)
        return around_wsgi
    if isinstance(app, _ASGIMiddleware | _WSGIMiddleware):
        raise ConfigurationError("this app is wrapped already: call wrap() once, with all options")
    raise ConfigurationError(
        f"wrap() takes a falcon.App or a falcon.asgi.App, not {type(app).__name__}: wrap the app "
        "itself, and add other middlewares around what wrap() returns"
    )


#: The name that every framework's entry point has.
UserContext = wrap


async def _receive_nothing() -> dict[str, Any]:
    """Stand for the server: a resolver's request never reads the body."""
    return {"type": "http.disconnect"}


def _asgi_request(scope: Any) -> object:
    return falcon.asgi.Request(scope, _receive_nothing)


def _wsgi_request(environ: Any) -> object:
    request = environ.get(_REQUEST)
    return falcon.Request(environ) if request is None else request


class _ASGIMiddleware(asgi.UserContextMiddleware):
    """The ASGI middleware, whose resolver gets Falcon's request."""

    make_request = staticmethod(_asgi_request)


class _WSGIMiddleware(wsgi.UserContextMiddleware):
    """The WSGI middleware, whose resolver gets Falcon's request."""

    make_request = staticmethod(_wsgi_request)


def _watch(app: Any, reporting: Callable[[Any], Any]) -> None:
    """Stand around the handler that Falcon has for every other error, whenever the app sets it.

    Falcon tells of no error before it is answered: its reporter of 4.4 hears of handled ones too,
    and there is one only, which may be the app's.
    """
    app.add_middleware(_Requests())
    handlers = app._error_handlers
    handlers[Exception] = reporting(handlers.get(Exception, app._python_error_handler))
    kind: Any = type(app)

    class Served(kind):  # type: ignore[misc]
        __slots__ = ()

        def add_error_handler(self, *args: Any, **kwargs: Any) -> None:
            ours = handlers[Exception]
            super().add_error_handler(*args, **kwargs)
            if handlers[Exception] is not ours:
                handlers[Exception] = reporting(handlers[Exception])

    Served.__name__, Served.__qualname__ = kind.__name__, kind.__qualname__
    app.__class__ = Served


def _letting_go(app: WSGIApp) -> WSGIApp:
    """Take the request out of the environ at the end: each refers to the other."""

    def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            body = app(environ, start_response)
        except BaseException:
            _record_of(environ, environ.pop(_REQUEST, None))
            raise
        request = environ.pop(_REQUEST, None)
        if type(body) is not list:
            _record_of(environ, request)
        return body

    return serve


class _Requests:
    """Falcon's middleware that lets the resolver have Falcon's own request, and its context."""

    def process_request(self, req: Any, _resp: Any) -> None:
        req.env[_REQUEST] = req

    async def process_request_async(self, req: Any, _resp: Any) -> None:
        _record_of(req.scope, req)

    async def process_request_ws(self, req: Any, _ws: Any) -> None:
        _record_of(req.scope, req)


def _record_of(source: Mapping[str, Any], request: object) -> RequestRecord | None:
    """Return the record of a request, which from now on knows Falcon's own."""
    record = open_record_in(source)
    # A resolver from further out was written for another kind of request.
    if record is not None and record.settings.make_request in (_asgi_request, _wsgi_request):
        record.make_state().request = request
    return record


def _carried_by(error: Exception, record: RequestRecord | None) -> RequestRecord | None:
    """Let whoever gets the error find its user, the app's own handler first."""
    if record is not None:
        attach(error, record)
    return record


def _reporting(handler: Callable[..., None]) -> Callable[..., None]:
    """Report what the handler of every other error answers with a 500."""

    def handle(req: Any, resp: Any, error: Exception, params: Any) -> None:
        record = _carried_by(error, _record_of(req.env, req))
        try:
            handler(req, resp, error, params)
        except (falcon.HTTPError, falcon.HTTPStatus) as answer:
            _report(error, record, answer)
            raise
        _report(error, record, resp)

    return handle


def _report(error: Exception, record: RequestRecord | None, answer: Any) -> None:
    if record is not None and _is_failure(answer):
        fail_now(record, error)


def _is_failure(answer: Any) -> bool:
    # A websocket has no response: whatever reaches the last handler has failed.
    return answer is None or bool(answer.status_code == 500)


def _reporting_async(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Report what the handler of every other error answers with a 500."""
    takes_websocket = "ws" in _parameters(handler)

    async def handle(req: Any, resp: Any, error: Exception, params: Any, ws: Any = None) -> None:
        record = _carried_by(error, _record_of(req.scope, req))
        more = {"ws": ws} if takes_websocket else {}
        try:
            await handler(req, resp, error, params, **more)
        except (falcon.HTTPError, falcon.HTTPStatus) as answer:
            await _report_async(error, record, answer)
            raise
        await _report_async(error, record, resp)

    return handle


def _parameters(function: Callable[..., Any]) -> Mapping[str, object]:
    from inspect import signature

    return signature(function).parameters


async def _report_async(error: Exception, record: RequestRecord | None, answer: Any) -> None:
    if record is not None and _is_failure(answer):
        await fail(record, error)
