"""The WSGI middleware: a fresh record for every request, until its body is closed."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.checks import options_by_name
from usercontext.core.context import configure, configure_joined, join
from usercontext.core.interface import check_interface, refuse_rsgi
from usercontext.core.lifecycle import (
    begin,
    end_now,
    fail_or_exit_now,
    inside,
    resolve_early_now,
    started_now,
)
from usercontext.core.plain import PlainWSGI
from usercontext.core.record import KEY, RequestRecord
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    a response themselves: `usercontext.frameworks` reports those as well.

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

    def __rsgi_init__(self, _loop: object) -> None:
        """Let a server of RSGI fail as it starts, which would fail at each request."""
        refuse_rsgi("WSGI")

    def _outer_record(self, environ: Environ, record: RequestRecord) -> RequestRecord | None:
        """Return the open record that a middleware further out made, or put ours in its place."""
        for source in (environ, environ.get("asgi.scope", {})):
            outer = source.get(KEY)
            if isinstance(outer, RequestRecord) and outer is not record and outer.ended is None:
                return outer
        environ[KEY] = record
        return None

    def _serve_inside(
        self, record: RequestRecord, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Serve a mounted app, or one that is wrapped twice: the record is there already."""
        _check_wrapped(self)
        join(self.own, record, environ)
        environ[KEY] = record
        with inside(record):
            if record.settings.eager:
                resolve_early_now(record)
            body = self.app(environ, start_response)
        if type(body) is list or type(body) is tuple or _is_file(body, environ):
            return body
        return (_SizedBody if hasattr(body, "__len__") else ResponseBody)(body, record, owned=False)

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
        return self._until_closed(body, record, environ, scopes)

    def _until_closed(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        environ: Environ,
        scopes: ClientScopes | None = None,
    ) -> Iterable[bytes]:
        """Keep the request open until its body is closed, where the body runs code of the app."""
        if type(body) is list or type(body) is tuple or _is_file(body, environ):
            # Wrapped, it would lose the server's `sendfile`.
            end_now(record, scopes)
            return body
        kind = _SizedBody if hasattr(body, "__len__") else ResponseBody
        return kind(body, record, scopes=scopes)


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


def _is_file(body: object, environ: Environ) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        return True
    return getattr(type(body), "fileno", None) is not None


class ResponseBody:
    """A response body that runs, chunk by chunk and in its `close()`, inside its request.

    A generator's body runs after the app has returned, in the thread of the server: what is set
    there would stay for the thread's next request. `close()` may come from another thread.
    """

    __slots__ = ("_body", "_iterator", "_owned", "_record", "_scopes")

    def __init__(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        *,
        scopes: ClientScopes | None = None,
        owned: bool = True,
    ) -> None:
        self._body = body
        self._record = record
        self._scopes = scopes
        self._owned = owned
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        if self._iterator is None:
            with inside(self._record):
                try:
                    self._iterator = iter(self._body)
                except Exception as error:
                    self._fail(error)
                    raise
        return self

    def __next__(self) -> bytes:
        if self._iterator is None:
            iter(self)
        with inside(self._record):
            try:
                return next(self._iterator)  # type: ignore[arg-type]
            except StopIteration:
                raise
            except BaseException as error:
                self._fail(error)
                raise

    def close(self) -> None:
        try:
            with inside(self._record):
                self._close_body()
        finally:
            if self._owned:
                end_now(self._record, self._scopes)

    def _close_body(self) -> None:
        close = getattr(self._body, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if self._owned:
            fail_or_exit_now(self._record, error)


class _SizedBody(ResponseBody):
    """A body that tells its length: servers write Content-Length where it is one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


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
