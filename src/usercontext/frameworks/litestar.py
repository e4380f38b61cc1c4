"""Litestar: a plugin, and the errors that Litestar turns into responses itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from usercontext.asgi import UserContextMiddleware
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import fail
from usercontext.core.passage import attach
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import identity_of, no_app, record_in
from usercontext.optional import importing

with importing("litestar", "litestar", purpose="usercontext.frameworks.litestar"):
    from litestar.connection import ASGIConnection
    from litestar.exceptions import HTTPException, WebSocketException
    from litestar.plugins import InitPlugin, ReceiveRoutePlugin

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.config.app import AppConfig

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_ERROR = "usercontext.litestar.error"  # where an error waits for its response, in the scope


def _held(scope: Any, _request: object = None) -> object:
    return NOT_YET if scope is None else scope.get("user", NOT_YET)


def _places(scope: Any, _request: object) -> Places:
    return [(scope, "user")]


@follows(_held, _places)
def request_user(connection: ASGIConnection[Any, Any, Any, Any]) -> object:
    """Return the user that Litestar's authentication found: a ready resolver.

    It reads what an AbstractAuthenticationMiddleware puts into `scope["user"]`, session and JWT
    authentication included, and follows it. Until that has happened the question stays open.
    Only who it is gets reported, never the whole model: of a mapping, too, no more than the four
    fields and `name`.
    """
    return identity_of(_held(connection.scope))


class UserContext(InitPlugin, ReceiveRoutePlugin):
    """Give every request of a Litestar app a user of its own, and report its unhandled errors.

    `Litestar(..., plugins=[UserContext(resolver=...)])`. The resolver, `def` or `async def`, is
    called with Litestar's `ASGIConnection`. An error is reported if Litestar answers it with a
    500, whoever made that page; HTTPExceptions of another status and errors that a handler of
    yours turns into another answer are yours to report.

    The middleware goes around all of the app, whether or not a server or a test starts it.

    Args:
        options: see `ContextOptions`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, **options: Unpack[ContextOptions]) -> None:
        self._middleware = _Middleware(no_app, **options)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Put the middleware around an app, and listen for its errors; Litestar calls this."""
        if sum(isinstance(plugin, UserContext) for plugin in app_config.plugins) > 1:
            raise ConfigurationError(
                "plugins: there is more than one UserContext: give all options to one"
            )
        app_config.on_startup.insert(0, self._go_around)
        app_config.after_exception.append(_note)
        return app_config

    def receive_route(self, route: Any) -> None:
        """Learn of the app by its first route; Litestar calls this, before the app is whole."""
        handlers = getattr(route, "route_handlers", None) or [route.route_handler]
        app = handlers[0].ownership_layers[0]
        if not hasattr(app, "asgi_handler") and not hasattr(app, "_usercontext_is_around"):
            app.__class__ = self._around(type(app))

    def _around(self, kind: Any) -> type[Litestar]:
        """Return a class of apps that goes around what an app is made of."""
        middleware = self._middleware

        class Served(kind):  # type: ignore[misc]
            __slots__ = ()
            _usercontext_is_around = True

            def _create_asgi_handler(self) -> Any:
                return middleware.around(_Watched(super()._create_asgi_handler()))

        Served.__name__, Served.__qualname__ = kind.__name__, kind.__qualname__
        return Served

    def _go_around(self, app: Litestar) -> None:
        # An app without routes is known here first. It may start several times.
        if not isinstance(app.asgi_handler, _Middleware):
            inner: Any = app.asgi_handler
            app.asgi_handler = self._middleware.around(_Watched(inner))  # type: ignore[assignment]


class _Middleware(UserContextMiddleware):
    """The ASGI middleware, whose resolver gets Litestar's own connection."""

    make_request = ASGIConnection


class _Watched:
    """Reports errors that Litestar answers with a 500, before the response starts."""

    def __init__(self, app: Any) -> None:
        self.app = app

    # What a call of either returns is awaited: a coroutine more would cost as much as the rest.

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        def watched(message: Any) -> Any:
            return _send_reported(message, scope, send) if _ERROR in scope else send(message)

        return self.app(scope, receive, watched)


async def _send_reported(message: Any, scope: Any, send: Any) -> None:
    error = scope.pop(_ERROR)
    if _is_failure(message, error):
        await _report(error, scope)
    await send(message)


async def _note(error: Exception, scope: Any) -> None:
    """Keep an error until its answer tells whether the app has handled it."""
    scope[_ERROR] = error
    record = record_in(scope)
    if record is not None:
        attach(error, record)


def _is_failure(message: Any, error: Exception) -> bool:
    if message["type"] == "http.response.start":
        return bool(message["status"] == 500)
    if isinstance(error, HTTPException):
        return error.status_code == 500
    # A websocket that the app closes, or the client.
    return not isinstance(error, WebSocketException)


async def _report(error: Exception, scope: Any) -> None:
    record = record_in(scope)
    if record is not None:
        await fail(record, error)
