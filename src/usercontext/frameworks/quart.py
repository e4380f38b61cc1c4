"""Quart: the ASGI middleware, and the errors that Quart turns into responses itself."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.asgi import UserContextMiddleware
from usercontext.core.following import NOT_YET, follows
from usercontext.core.record import KEY
from usercontext.core.swallowed import fail_current
from usercontext.diagnostics import warn_once
from usercontext.frameworks.base import check_app, check_first, find_current, no_app
from usercontext.optional import importing

with importing("quart", "quart", purpose="usercontext.frameworks.quart"):
    import quart
    from quart.wrappers.base import BaseRequestWebsocket
    from quart.wrappers.response import DataBody
    from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_NAME = "usercontext"  # where Quart's extensions stand, in `app.extensions`


def _current_request() -> BaseRequestWebsocket | None:
    if quart.has_request_context():
        return quart.request._get_current_object()  # type: ignore[attr-defined,no-any-return]
    if quart.has_websocket_context():
        return quart.websocket._get_current_object()  # type: ignore[attr-defined,no-any-return]
    return None


def _quart_auth() -> Any:
    """Return the app's extension, the one that `current_user` is of."""
    for extension in quart.current_app.extensions.get("QUART_AUTH", ()):
        if extension.singleton:
            return extension
    return None


def _held(scope: Any, _request: object) -> object:
    here = _current_request()
    if here is None or scope is None or here.scope.get(KEY) is not scope.get(KEY):
        return NOT_YET
    extension = _quart_auth()
    return NOT_YET if extension is None else quart.g.get(extension.attribute_name, NOT_YET)


def _places(scope: Any, request: object) -> Places:
    if _held(scope, request) is NOT_YET:
        return []
    own: Any = quart.g
    return [(vars(own._get_current_object()), _quart_auth().attribute_name)]


@follows(_held, _places)
def request_user(request: BaseRequestWebsocket) -> object:
    """Return the user of Quart-Auth's `current_user`, by its `auth_id` alone: a ready resolver.

    No property of a user class of your own is read. `login_user()` and `logout_user()` are
    followed. Outside of Quart's context, where Quart-Auth knows nobody, the question stays open.
    """
    if request is not _current_request():
        return NOT_YET
    extension = _quart_auth()
    if extension is not None:
        auth_id = extension.load_user().auth_id
        return None if auth_id is None else {"id": auth_id}
    warn_once(
        "request_user: no Quart-Auth",
        "request_user knows nobody, as this app has no Quart-Auth: write QuartAuth(app), or a "
        "resolver that finds the user",
    )
    return None


class UserContext:
    """Give every request of a Quart app a user of its own, and report its unhandled errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It wraps `app.asgi_app`. The resolver, `def` or `async def`, is
    called with Quart's `request` or `websocket`, and asked inside their context, where `session`,
    `g` and Quart-Auth's `current_user` work. Where there is none any more it is called with a
    `BaseRequestWebsocket` of the same headers, cookies, args and path.

    Args:
        app: the application; None where `init_app` is called later.
        options: see `ContextOptions`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, app: quart.Quart | None = None, **options: Unpack[ContextOptions]) -> None:
        self._middleware = _Middleware(no_app, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: quart.Quart) -> None:
        """Put the middleware around an app.

        Raises:
            ConfigurationError: it is not a Quart app, or has a `UserContext` already.
        """
        _check(app)
        app.extensions[_NAME] = self
        inner: Any = app.asgi_app
        app.asgi_app = self._middleware.around(inner)  # type: ignore[assignment,method-assign]
        app.do_teardown_request = _reporting(  # type: ignore[method-assign,assignment]
            app.do_teardown_request
        )
        app.after_request(_find_before_stream)


async def _find_before_stream(response: Any) -> Any:
    """Take note of the user that Quart-Auth found: a stream goes on where nobody can ask it."""
    if not isinstance(getattr(response, "response", None), DataBody):
        find_current()
    return response


def _reporting(teardown: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Report what ends a stream that has the context: later there is none."""

    @wraps(teardown)
    async def tear_down(error: BaseException | None, *args: Any) -> None:
        await fail_current(error)
        await teardown(error, *args)

    return tear_down


def _request_of(scope: Any) -> BaseRequestWebsocket:
    """Return the current request if it is the scope's, which may be another one."""
    here = _current_request()
    if here is not None and here.scope.get(KEY) is scope.get(KEY):
        return here
    headers = Headers(
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    )
    return BaseRequestWebsocket(
        scope.get("method", "GET"),
        scope.get("scheme", "http"),
        scope["path"],
        scope["query_string"],
        headers,
        scope.get("root_path", ""),
        scope.get("http_version", "1.1"),
        scope,
    )


class _Middleware(UserContextMiddleware):
    """The ASGI middleware, whose resolver gets Quart's own request."""

    make_request = staticmethod(_request_of)


def _check(app: quart.Quart) -> None:
    check_app(
        app,
        quart.Quart,
        "a Quart app",
        "around another ASGI app write UserContextMiddleware(app) of usercontext.asgi; Flask has "
        "its own in usercontext.frameworks.flask",
    )
    check_first(_NAME in app.extensions)
