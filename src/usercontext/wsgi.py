"""The WSGI middleware: a fresh record for every request, until its body is closed."""

from __future__ import annotations

from functools import cache, cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core import resolution
from usercontext.core.capture import report_unhandled
from usercontext.core.context import Context, OverDefault
from usercontext.core.interface import check_interface
from usercontext.core.lifecycle import push_now, resolve_early_now
from usercontext.core.record import KEY, UNKNOWN, RequestRecord, enter, leave, reset
from usercontext.exceptions import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from usercontext.core.clients import ClientScopes
    from usercontext.core.options import ContextOptions
    from usercontext.types import Environ, ExcInfo, StartResponse, WSGIApp

__all__ = ["UserContextMiddleware"]


class UserContextMiddleware:
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

    def __init__(self, app: WSGIApp, **options: Unpack[ContextOptions]) -> None:
        check_interface(app, "WSGI")
        self.app = app
        self._own = Context(make_request=self._request_maker(options), **options)
        self._defaults = OverDefault(self._own)

    @staticmethod
    def _request_maker(options: ContextOptions) -> Callable[[Any], object]:
        """Return what makes the resolver's request of an environ: frameworks may have their own."""
        if options.get("resolver") is not None:
            _import_request()
        return _make_request

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        context = self._defaults.joined
        record = RequestRecord(environ, context)
        if environ.setdefault(KEY, record) is not record or "asgi.scope" in environ:
            outer = _outer_record(environ, record)
            if outer is not None:
                return self._serve_inside(outer, environ, start_response)
        if not context.is_plain:
            return _serve_with_clients(self.app, record, environ, start_response)
        token = enter(record)
        try:
            body = self.app(environ, start_response)
        except Exception as error:
            _fail(record, error)
            raise
        except BaseException:
            record.close()
            raise
        finally:
            try:
                reset(token)
            except ValueError:
                leave(token)
        if type(body) is not list and type(body) is not tuple:
            return _until_closed(body, record, environ)
        # What close() does, at a tenth of its cost, for a request that reported nothing.
        if record.user is UNKNOWN and record.state is None:
            record.ended = 0.0
            record.source = None
        elif record.state is None and not context.includes_ip:
            record.ended = monotonic()
            record.source = None
        else:
            record.close()
        return body

    def _serve_inside(
        self, record: RequestRecord, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Serve a mounted app, or one that is wrapped twice: the record is there already."""
        self._own.join(record, environ)
        environ[KEY] = record
        token = enter(record)
        try:
            if record.context.eager:
                resolve_early_now(record)
            body = self.app(environ, start_response)
        finally:
            leave(token)
        if type(body) is list or type(body) is tuple or _is_file(body, environ):
            return body
        return (_SizedBody if hasattr(body, "__len__") else ResponseBody)(body, record, owned=False)


def _outer_record(environ: Environ, record: RequestRecord) -> RequestRecord | None:
    """Return the open record that a middleware further out made, or put ours in its place."""
    for source in (environ, environ.get("asgi.scope", {})):
        outer = source.get(KEY)
        if isinstance(outer, RequestRecord) and outer is not record and outer.ended is None:
            return outer
    environ[KEY] = record
    return None


def _import_request() -> type[Any]:
    try:
        from werkzeug.wrappers import Request
    except ImportError:
        raise MissingDependencyError("werkzeug", "wsgi", purpose="A resolver over WSGI") from None
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


def _until_closed(
    body: Iterable[bytes],
    record: RequestRecord,
    environ: Environ,
    stack: ClientScopes | None = None,
) -> Iterable[bytes]:
    """Keep the request open until its body is closed, where the body runs code of the app."""
    if type(body) is list or type(body) is tuple or _is_file(body, environ):
        # Wrapped, it would lose the server's `sendfile`.
        _end(record, stack)
        return body
    kind = _SizedBody if hasattr(body, "__len__") else ResponseBody
    return kind(body, record, stack=stack)


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

    __slots__ = ("_body", "_iterator", "_owned", "_record", "_stack")

    def __init__(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        *,
        stack: ClientScopes | None = None,
        owned: bool = True,
    ) -> None:
        self._body = body
        self._record = record
        self._stack = stack
        self._owned = owned
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        if self._iterator is not None:
            return self
        token = enter(self._record)
        try:
            self._iterator = iter(self._body)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            leave(token)
        return self

    def __next__(self) -> bytes:
        if self._iterator is None:
            iter(self)
        token = enter(self._record)
        try:
            return next(self._iterator)  # type: ignore[arg-type]
        except StopIteration:
            raise
        except Exception as error:
            self._fail(error)
            raise
        finally:
            leave(token)

    def close(self) -> None:
        token = enter(self._record)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except Exception as error:
            self._fail(error)
            raise
        finally:
            leave(token)
            if self._owned:
                _end(self._record, self._stack)

    def _fail(self, error: Exception) -> None:
        if self._owned:
            _fail(self._record, error)


class _SizedBody(ResponseBody):
    """A body that tells its length: servers write Content-Length where it is one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def _serve_with_clients(
    app: WSGIApp, record: RequestRecord, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    token = enter(record)
    stack = record.context.isolate_clients(record)
    try:
        if record.context.eager:
            resolve_early_now(record)
        body = app(environ, _push_at_start(record, start_response))
    except BaseException as error:
        if isinstance(error, Exception):
            _fail(record, error)
        _end(record, stack)
        raise
    finally:
        leave(token)
    return _until_closed(body, record, environ, stack)


def _push_at_start(record: RequestRecord, start_response: StartResponse) -> StartResponse:
    """Hand clients that send this request anyway its user when the response starts."""

    def start(
        status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        push_now(record)
        if exc_info is None:
            return start_response(status, headers)
        return start_response(status, headers, exc_info)

    return start


def _fail(record: RequestRecord, error: Exception) -> None:
    if record.ended is None:
        resolution.ask(record)
    report_unhandled(error, record)
    record.close()


def _end(record: RequestRecord, stack: ClientScopes | None) -> None:
    if stack is not None:
        stack.close()
    record.close()
