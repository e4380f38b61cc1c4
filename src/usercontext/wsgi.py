"""The WSGI middleware: a fresh record for every request, until its body is closed."""

from __future__ import annotations

from functools import cache, cached_property
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.checks import options_by_name
from usercontext.core.body import kept_open
from usercontext.core.context import configure, configure_joined, join
from usercontext.core.interface import check_interface, missing_attribute, refuse_rsgi
from usercontext.core.lifecycle import (
    begin,
    complete_now,
    end_now,
    fail_or_exit_now,
    flush_response_now,
    inside,
    resolve_early_now,
    started_now,
)
from usercontext.core.plain import PlainWSGI
from usercontext.core.record import RequestRecord, found_in, key_in
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usercontext.core.clients import ClientScopes
    from usercontext.core.options import ContextOptions
    from usercontext.core.settings import Settings
    from usercontext.types import Environ, ExcInfo, StartResponse, WSGIApp

__all__ = ["UserContextMiddleware"]
_MAX_WRAPPED = 20  # middlewares in each other


def _import_request() -> type[Any]:
    with importing("werkzeug", "wsgi", purpose="A resolver over WSGI"):
        from werkzeug.wrappers import Request
    return Request


@cache
def _request_class() -> type[Any]:
    from werkzeug.datastructures import EnvironHeaders

    whole: Any = _import_request()

    class Request(whole):  # type: ignore[misc]
        """Werkzeug's Request, filled when more than its headers is asked for.

        Filling it takes more than twice as long as reading a header, which is what most
        resolvers do. It is shallow and unpopulated: the body stays the app's, and the environ
        holds nothing of ours.
        """

        _is_filled = False

        def __init__(self, environ: Environ) -> None:
            self.environ = environ

        @cached_property
        def headers(self) -> Any:
            return EnvironHeaders(self.environ)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or self._is_filled:
                raise AttributeError(f"a request has no {name!r}")
            self._is_filled = True
            super().__init__(self.environ, populate_request=False, shallow=True)
            return getattr(self, name)

    return Request


def _make_request(environ: Any) -> object:
    return _request_class()(environ)


class UserContextMiddleware(PlainWSGI):
    """Give every request of a WSGI app a user of its own.

    Flask: `app.wsgi_app = UserContextMiddleware(app.wsgi_app, ...)`; Django:
    `application = UserContextMiddleware(get_wsgi_application(), ...)`. Both turn an error into
    a response themselves, and announce it: it is reported as well.

    Args:
        app: the application to serve.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver, `def`
            or `async def`, is called with Werkzeug's `Request`, shallow: it never reads the body.

    Raises:
        ConfigurationError: an option is wrong, or the app is of ASGI; the message names the fix.
        MissingDependencyError: a resolver is given, and werkzeug is not installed.
    """

    #: What makes the resolver's request of an environ; frameworks have their own.
    make_request: Callable[[Any], object] = staticmethod(_make_request)

    @options_by_name
    def __init__(self, app: WSGIApp, **options: Unpack[ContextOptions]) -> None:
        check_interface(app, "WSGI")
        self.app = app
        if self.make_request is _make_request and options.get("resolver") is not None:
            _import_request()
        self.own: Settings = configure(make_request=self.make_request, **options)
        self._joined = configure_joined(self.own)
        from usercontext.core import swallowed  # of no use before an app is wrapped

        swallowed.listen()
        if self.make_request is _make_request:
            swallowed.check_answers_nothing(app)
            if not isinstance(app, FunctionType | MethodType):
                kind: Any = type(self)
                self.__class__ = _naming_what_is_hidden(kind)

    def __rsgi_init__(self, _loop: object) -> None:
        """Let a server of RSGI fail as it starts, which would fail at each request."""
        refuse_rsgi("WSGI")

    def _outer_record(self, environ: Environ, record: RequestRecord) -> RequestRecord | None:
        """Return the open record that a middleware further out made, or put ours in its place."""
        for source in (environ, environ.get("asgi.scope", {})):
            outer = found_in(source)
            if outer is not None and outer is not record and outer.ended is None:
                return outer
        environ[key_in(environ)] = record
        return None

    def _serve_inside(
        self, record: RequestRecord, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Serve a mounted app, or one that is wrapped twice: the record is there already."""
        _check_wrapped(self)
        join(self.own, record, environ)
        environ[key_in(environ)] = record
        with inside(record):
            if record.settings.eager:
                resolve_early_now(record)
            body = self.app(environ, start_response)
        kind = kept_open(body, environ.get("wsgi.file_wrapper"))
        return body if kind is None else kind(body, record, None, False)

    def _serve_with_clients(
        self, record: RequestRecord, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        with inside(record):
            scopes = begin(record)
            try:
                if record.settings.eager:
                    resolve_early_now(record)
                body = self.app(environ, _push_at_start(record, start_response))
            except BaseException as error:
                fail_or_exit_now(record, error)
                end_now(record, scopes)
                raise
        if record.settings.flushes:
            # What is sent with the last bytes of a body ends the response before its `close()`.
            complete_now(record)
            flush_response_now(record)
        return self._until_closed(body, record, environ, scopes)

    def _until_closed(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        environ: Environ,
        scopes: ClientScopes | None = None,
    ) -> Iterable[bytes]:
        """Keep the request open until its body is closed, where the body runs code of the app."""
        kind = kept_open(body, environ.get("wsgi.file_wrapper"))
        if kind is not None:
            return kind(body, record, scopes)
        end_now(record, scopes)
        return body


@cache
def _naming_what_is_hidden(kind: type[Any]) -> type[Any]:
    """Return the class for an app whose own names, such as its routes, are asked for next.

    A class with `__getattr__` makes a request cost a tenth more, so it is for those alone.
    """

    def __getattr__(self: object, name: str) -> object:  # noqa: N807
        raise missing_attribute(self, name)

    described = {name: getattr(kind, name) for name in ("__doc__", "__module__", "__qualname__")}
    return type(kind.__name__, (kind,), {**described, "__getattr__": __getattr__})


def _check_wrapped(middleware: UserContextMiddleware) -> None:
    """Refuse an app that calls the middleware which calls the app, without end.

    Raises:
        ConfigurationError: it stands in the `wsgi_app` of the app that it was given.
    """
    within: Any = getattr(middleware.app, "wsgi_app", None)
    for _ in range(_MAX_WRAPPED):
        if within is middleware:
            name = type(middleware.app).__name__
            raise ConfigurationError(
                f"app.wsgi_app is a UserContextMiddleware of the {name} itself, which calls "
                "app.wsgi_app again: write app.wsgi_app = UserContextMiddleware(app.wsgi_app, ...)"
            )
        within = getattr(within, "app", None) or getattr(within, "wsgi_app", None)


def _push_at_start(record: RequestRecord, start_response: StartResponse) -> StartResponse:
    """Hand clients that send this request anyway its user when the response starts."""

    def start(
        status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        started_now(record)
        if exc_info is None:
            return start_response(status, headers)
        return start_response(status, headers, exc_info)

    return start
