"""BlackSheep: the ASGI middleware around an application, and the errors that it answers itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable  # noqa: TC003 - BlackSheep reads annotations
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.asgi import UserContextMiddleware
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import fail
from usercontext.core.record import enter, leave
from usercontext.frameworks.base import (
    check_app,
    check_first,
    check_waiting,
    no_app,
    record_in,
)
from usercontext.optional import importing

with importing("blacksheep", "blacksheep", purpose="usercontext.frameworks.blacksheep"):
    from blacksheep.messages import Request
    from blacksheep.server.application import Application
    from blacksheep.server.websocket import WebSocket, WebSocketDisconnectError

if TYPE_CHECKING:
    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.types import Receive, Scope, Send

__all__ = ["UserContext", "request_user"]

# Where the middleware leaves the request that BlackSheep made of a scope.
_REQUEST = "usercontext.blacksheep"

# Of an identity's claims, those that name somebody (OpenID Connect Core 1.0, section 5.1).
_CLAIMS = {"id": "sub", "username": "preferred_username", "email": "email", "name": "name"}


def _held(scope: Any, _request: object) -> object:
    request = None if scope is None else scope.get(_REQUEST)
    return NOT_YET if request is None else vars(request).get("_user", NOT_YET)


def _places(scope: Any, _request: object) -> Places:
    return [(vars(scope[_REQUEST]), "_user")]


@follows(_held, _places)
def request_user(request: Request) -> object:
    """Return the user that BlackSheep's authentication found: a ready resolver.

    It reads the claims of `request.user`, and follows it. While that is not authenticated the
    question stays open, as it may be so later.
    """
    identity: Any = request.user
    if identity is None or not identity.is_authenticated():
        return NOT_YET
    named = {field: identity.get(claim) for field, claim in _CLAIMS.items()}
    return {**named, "id": identity.get("id") or named["id"]}


class UserContext:
    """Give every request and websocket of a BlackSheep app a user of its own, and report errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It goes around all of the app, mounted apps included.

    Args:
        app: the application; None where `init_app` is called later.
        options: as `UserContextMiddleware` of `usercontext.asgi` takes them. The resolver, `def`
            or `async def`, is called with BlackSheep's `Request`, or its `WebSocket`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, app: Application | None = None, **options: Unpack[ContextOptions]) -> None:
        self._middleware = _Middleware(no_app, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Application) -> None:
        """Go around all requests of an app, and listen for its errors.

        Raises:
            ConfigurationError: it is not a BlackSheep app, has started, or has a `UserContext`.
        """
        _check(app)
        vars(app)["_usercontext"] = self._middleware
        app.middlewares.insert(0, _serve)
        _go_around(app)


def _request_of(scope: Any) -> Request:
    found = scope.get(_REQUEST)
    if found is None:
        # Asked before the app has made its own, as `resolve="eager"` does.
        path = scope.get("raw_path") or scope["path"].encode("utf-8")
        headers = list(scope["headers"])
        found = Request.incoming(scope.get("method", "GET"), path, scope["query_string"], headers)
        found.scope = scope
    request: Request = found
    return request


class _Middleware(UserContextMiddleware):
    """The ASGI middleware, with BlackSheep's own request for the resolver."""

    make_request = staticmethod(_request_of)


def _go_around(app: Any) -> None:
    """Go around what the class of an app does, as it is now."""
    kind = type(app)
    app.__class__ = _around(kind)
    middleware = vars(app)["_usercontext"]
    vars(app)["_usercontext"] = middleware.around(MethodType(kind.__call__, app))


def _around(kind: type[Application]) -> type[Application]:
    """Return a class of apps that goes around what the class of an app does."""

    class Served(kind):  # type: ignore[valid-type, misc]
        _usercontext_is_outermost = True

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if type(self) is not Served:
                # It is extended: who goes around that has called us.
                await super().__call__(scope, receive, send)
                return
            try:
                await vars(self)["_usercontext"](scope, receive, send)
            finally:
                scope.pop(_REQUEST, None)  # each refers to the other

        async def start(self) -> None:
            # Where no lifespan is sent it is the first request that starts an app, and what is
            # started then lives as long as the app: it belongs to nobody.
            token = enter(None)
            try:
                await super().start()
            finally:
                leave(token)

        async def log_unhandled_exc(self, request: Request, exc: Exception) -> None:
            await _report(request, exc)
            await super().log_unhandled_exc(request, exc)

        async def _apply_exception_handler(
            self, request: Request, exc: Exception, exception_handler: Any
        ) -> Any:
            handler = _reporting(exception_handler)
            return await super()._apply_exception_handler(request, exc, handler)

        def extend(self, mixin: type) -> None:
            # What the app is extended by, such as mounting, goes around the class that it has.
            super().extend(mixin)
            if "_usercontext_is_outermost" not in vars(type(self)):
                _go_around(self)

    Served.__name__, Served.__qualname__ = kind.__name__, kind.__qualname__
    return Served


async def _serve(request: Request, handler: Callable[[Request], Awaitable[Any]]) -> Any:
    """Keep the request for the resolver; report an error that ends a websocket."""
    scope: Any = request.scope
    scope[_REQUEST] = request
    try:
        return await handler(request)
    except WebSocketDisconnectError:
        raise
    except Exception as error:
        if isinstance(request, WebSocket):
            await _report(request, error)
        raise


def _reporting(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Report what an exception handler fails with itself, which BlackSheep answers with a 500."""

    @wraps(handler)
    async def handle(app: Application, request: Request, error: Exception) -> Any:
        try:
            return await handler(app, request, error)
        except Exception as failure:
            await _report(request, failure)
            raise

    return handle


async def _report(request: Request, error: Exception) -> None:
    scope: Any = request.scope
    record = record_in(scope) if scope else None
    if record is not None:
        await fail(record, error)


def _check(app: Application) -> None:
    hint = "write UserContext(app), where app = Application()"
    check_app(app, Application, "a BlackSheep Application", hint)
    hint = "an app that is mounted in it may have one of its own"
    check_first("_usercontext" in vars(app), hint=hint)
    check_waiting(app.started, hint="write UserContext(app) where the app is made")
