"""Bottle: its own request for the resolver, and the errors that it turns into responses itself."""

from __future__ import annotations

from functools import wraps
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core.following import NOT_YET, follows
from usercontext.core.options import checked
from usercontext.core.passage import attach
from usercontext.core.record import current
from usercontext.core.swallowed import fail_current_now
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import check_first, identity_of
from usercontext.optional import importing
from usercontext.wsgi import UserContextMiddleware

with importing("bottle", "bottle", purpose="usercontext.frameworks.bottle"):
    import bottle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.types import Environ, ExcInfo, StartResponse, WSGIApp

__all__ = ["UserContext", "request_user"]

# Where Bottle keeps what is set as `request.user`.
_USER = "bottle.request.ext.user"


def _held(environ: Any, _request: object) -> object:
    return NOT_YET if environ is None else environ.get(_USER, NOT_YET)


def _places(environ: Any, _request: object) -> Places:
    return [(environ, _USER)]


@follows(_held, _places)
def request_user(request: Any) -> object:
    """Return the user that the app put into `request.user`: a ready resolver.

    Until that has happened the question stays open, and later what stands there is followed. Of a
    mapping only the four fields and `name` are taken, as of an object.
    """
    return identity_of(request.environ.get(_USER, NOT_YET))


class UserContext:
    """Give every request of a Bottle app a user of its own, and report its unhandled errors.

    A plugin: `app.install(UserContext(resolver=...))`. It puts the middleware around `app.wsgi`.
    An error that Bottle answers with a 500 is reported, also where `@app.error(500)` makes the
    page; an `HTTPError` or `HTTPResponse` that the app raises is its answer.

    Bottle has no users of its own: `request_user` of this module names the user that the app put
    into `request.user`. What `request.auth` gives is whatever the client wrote into its
    Authorization header, checked by nobody: never return it from a resolver as it is.

    Args:
        options: see `ContextOptions`. The resolver is called with a request of Bottle's.

    Raises:
        ConfigurationError: an option is wrong, or the plugin is installed where it cannot be;
            the message names the fix.
    """

    name = "usercontext"
    api = 2

    def __init__(self, **options: Unpack[ContextOptions]) -> None:
        self._options = checked(options)

    def setup(self, app: Any) -> None:
        """Put the middleware around an app, as Bottle asks a plugin to when it installs it."""
        if not isinstance(app, bottle.Bottle):
            raise ConfigurationError(
                f"UserContext is a plugin of a Bottle app, not of {type(app).__name__}: write "
                "app.install(UserContext(...)); any other WSGI app takes "
                "usercontext.wsgi.UserContextMiddleware(app)"
            )
        check_first(any(isinstance(plugin, UserContext) for plugin in app.plugins))
        # Past the `__setattr__` of Bottle, which lets nobody wrap what another plugin has set.
        vars(app)["wsgi"] = _Middleware(_reporting(app.wsgi), **self._options)

    def apply(self, callback: Callable[..., Any], _route: object) -> Callable[..., Any]:
        """Let an error page find the user of its error.

        It also reports what a generator fails with before its first chunk, which Bottle answers.
        """

        @wraps(callback)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                result = callback(*args, **kwargs)
            except bottle.HTTPResponse:
                raise
            except Exception as error:
                record = current()
                if record is not None:
                    attach(error, record)
                raise
            if isinstance(result, GeneratorType):
                return _reported(result)
            if isinstance(result, bottle.HTTPResponse) and isinstance(result.body, GeneratorType):
                result.body = _reported(result.body)
            return result

        return call


def _make_request(environ: Any) -> object:
    # Past `__init__`, which would put this request in place of Bottle's own into the environ.
    request = bottle.BaseRequest.__new__(bottle.BaseRequest)
    request.environ = environ
    return request


class _Middleware(UserContextMiddleware):
    """The WSGI middleware, whose resolver gets a request of Bottle's."""

    make_request = staticmethod(_make_request)


def _reporting(app: WSGIApp) -> WSGIApp:
    """Report the errors that an app answers: it hands them to the server, as PEP 3333 says."""

    def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start(
            status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
        ) -> Callable[[bytes], object]:
            if exc_info is not None:
                # Where the page for an error fails as well, Bottle hands over that error only.
                _report(environ.get("bottle.exc_info", exc_info)[1])
                _report(exc_info[1])
                return start_response(status, headers, exc_info)
            return start_response(status, headers)

        return app(environ, start)

    return serve


def _report(error: object) -> None:
    fail_current_now(_original(error))


def _original(error: Any) -> object:
    """Return the error of a mounted WSGI app, which Bottle raises again, itself its argument."""
    while error.args and type(error.args[0]) is type(error):
        error = error.args[0]
    return error


def _reported(body: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from body
    except bottle.HTTPResponse:
        raise
    except Exception as error:
        _report(error)
        raise
