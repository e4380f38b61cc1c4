"""Tornado: a record around each request of an application, whichever handler serves it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import unquote
from weakref import WeakSet

from usercontext.core.context import configure, configure_joined
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import RequestScope, Serving, fail_now, inside, started, started_now
from usercontext.core.record import KEY, RequestRecord
from usercontext.frameworks.base import check_app, check_first, identity_of
from usercontext.optional import importing

with importing("tornado", "tornado", purpose="usercontext.frameworks.tornado"):
    from tornado.iostream import StreamClosedError
    from tornado.web import Application, HTTPError, RequestHandler
    from tornado.websocket import WebSocketClosedError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from types import TracebackType

    from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_initialised: WeakSet[Application] = WeakSet()


_KEPT = "_current_user"  # where Tornado keeps the user that it has found


def _held(source: Any, _request: object) -> object:
    if isinstance(source, RequestScope):
        return vars(source.request).get(_KEPT, NOT_YET)
    return NOT_YET


def _places(source: Any, _request: object) -> Places:
    return [(vars(source.request), _KEPT)]


@follows(_held, _places)
def request_user(handler: RequestHandler) -> object:
    """Return who `handler.current_user` is: a ready resolver, taken where none is given.

    Tornado asks the app's `get_current_user()` once a request; here it happens only if a report
    needs the user. What the app sets `current_user` to later is followed. Text, as a signed
    cookie gives it, is a username. Of a mapping only the four fields and `name` are taken, as of
    an object.
    """
    user = _current_user(handler)
    if isinstance(user, bytes):
        user = user.decode("utf-8")
    if isinstance(user, str):
        return {"username": user}
    return identity_of(user)


def _current_user(handler: RequestHandler) -> Any:
    is_kept = _KEPT in vars(handler)
    user = handler.current_user
    if user is None and not is_kept:
        # Asked before the app's `prepare()`, it may find somebody yet.
        vars(handler).pop(_KEPT, None)
        return NOT_YET
    return user


class UserContext:
    """Give every request and websocket of a Tornado application a user of its own.

    `UserContext(application, ...)`, or with a factory `context = UserContext(...)` and
    `context.init_app(application)`. Each handler is served by a subclass of its own class, which
    also reports what Tornado logs as an error.

    Args:
        application: the application; None where `init_app` is called later.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with the `RequestHandler`; without any, `request_user` is.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(
        self, application: Application | None = None, **options: Unpack[ContextOptions]
    ) -> None:
        make_request = attrgetter("request")
        self._joined = configure_joined(configure(make_request=make_request, **options))
        options["resolver"] = options.get("resolver") or request_user
        self._ready = configure_joined(configure(make_request=make_request, **options))
        self._served: dict[type[RequestHandler], type[RequestHandler]] = {}
        if application is not None:
            self.init_app(application)

    def init_app(self, application: Application) -> None:
        """Go around all requests of an application.

        Raises:
            ConfigurationError: it is not a Tornado application, or has a `UserContext`.
        """
        _check(application)
        _initialised.add(application)
        delegate = application.get_handler_delegate

        def delegate_served(
            request: HTTPServerRequest,
            target_class: type[RequestHandler],
            *args: Any,
            **kwargs: Any,
        ) -> HTTPMessageDelegate:
            return delegate(request, self._around(target_class), *args, **kwargs)

        application.get_handler_delegate = delegate_served  # type: ignore[method-assign,assignment]

    def _around(self, handler: type[RequestHandler]) -> type[RequestHandler]:
        served = self._served.get(handler)
        if served is None:
            names = {"__module__": handler.__module__, "__qualname__": handler.__qualname__}
            served = type(handler.__name__, (_Served, handler), {**names, "_usercontext": self})
            self._served[handler] = served
        return served

    def _record_of(self, handler: RequestHandler) -> RequestRecord:
        settings = self._joined.joined
        if settings.resolver is None:
            settings = self._ready.joined
        record = RequestRecord.of(RequestScope(handler, _PARTS), settings)
        vars(handler.request)[KEY] = record
        return record


class _Served(RequestHandler):
    """What a handler does inside its request's record."""

    _usercontext: ClassVar[UserContext]
    _record: RequestRecord | None = None

    async def _execute(self, transforms: Any, *args: bytes, **kwargs: bytes) -> None:
        self._record = record = self._usercontext._record_of(self)
        async with Serving(record):
            if record.settings.awaits:
                # Later, as the response starts, nothing can be awaited.
                await started(record)
            await super()._execute(transforms, *args, **kwargs)

    def flush(self, include_footers: bool = False) -> Future[None]:
        """Start or go on with the response, kept apart from the request's user.

        What waits for the connection from here on runs in this very context: after a response
        with something to wait for, that is what the next request of the connection begins with.
        """
        record = self._record
        if record is not None and record.settings.recording and not self._headers_written:
            started_now(record)
        with inside(None):
            return super().flush(include_footers)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._record is not None and isinstance(value, Exception) and _is_error(self, value):
            fail_now(self._record, value)
        super().log_exception(typ, value, tb)

    # These two are called by the connection, in whatever context that is.

    async def data_received(self, chunk: bytes) -> None:
        with inside(self._record):
            received: Any = super().data_received(chunk)
            if received is not None:
                await received

    def on_connection_close(self) -> None:
        with inside(self._record):
            super().on_connection_close()


def _check(application: Application) -> None:
    hint = "write UserContext(application), where application = Application([...])"
    check_app(application, Application, "a tornado.web.Application", hint)
    hint = "an application that it routes to may have one of its own"
    check_first(application in _initialised, app="this application", hint=hint)


def _is_error(handler: RequestHandler, error: Exception) -> bool:
    """Tell errors from answers, and from the news that the client has gone away."""
    if isinstance(error, HTTPError):
        return error.status_code >= 500
    if isinstance(error, StreamClosedError | WebSocketClosedError):
        return not _is_gone(handler)
    return True


def _is_gone(handler: RequestHandler) -> bool:
    stream = getattr(handler.request.connection, "stream", None)
    return stream is None or stream.closed()


def _client_of(handler: RequestHandler) -> tuple[str, None] | None:
    address = handler.request.remote_ip
    return (address, None) if address else None


def _headers_of(handler: RequestHandler) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in handler.request.headers.get_all()
    ]


_PARTS: dict[str, Callable[[RequestHandler], Any]] = {
    "type": lambda _: "http",
    "http_version": lambda handler: handler.request.version.removeprefix("HTTP/"),
    "method": lambda handler: handler.request.method,
    "scheme": lambda handler: handler.request.protocol,
    "path": lambda handler: unquote(handler.request.path),
    "query_string": lambda handler: handler.request.query.encode("latin-1", "replace"),
    "headers": _headers_of,
    "client": _client_of,
    "server": lambda _: None,
}
