"""Starlette: the ASGI middleware around all of an app, and the user of its authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakSet

from usercontext.asgi import UserContextMiddleware
from usercontext.core.following import NOT_YET, follows
from usercontext.diagnostics import warn_once
from usercontext.frameworks.base import (
    check_app,
    check_first,
    check_waiting,
    identity_of,
    no_app,
)
from usercontext.optional import importing

with importing("starlette", "starlette", purpose="usercontext.frameworks.starlette"):
    from starlette.applications import Starlette

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_initialised: WeakSet[Starlette] = WeakSet()


def _held(scope: Any, _request: object = None) -> object:
    if scope is None:
        return NOT_YET
    if "user" in scope:
        return scope["user"]
    state = scope.get("state")
    return NOT_YET if state is None else state.get("user", NOT_YET)


def _places(scope: Any, _request: object) -> Places:
    state = scope.get("state")
    return (
        [(scope, "user")]
        if "user" in scope or state is None
        else [(scope, "user"), (state, "user")]
    )


@follows(_held, _places)
def request_user(connection: HTTPConnection) -> object:
    """Return the user that Starlette's AuthenticationMiddleware found: a ready resolver.

    It reads `scope["user"]`, else `request.state.user`, and follows both. Until authentication
    has happened the question stays open, so the order of middlewares does not matter, unless
    `resolve="eager"` asks too early. Of a mapping only the four fields and `name` are taken, as
    of an object.
    """
    held = _held(connection.scope)
    if held is NOT_YET and "endpoint" in connection.scope:
        _say_who_would_set_it()
    return identity_of(held)


def _say_who_would_set_it() -> None:
    warn_once(
        "request_user: nothing authenticates",
        "request_user finds nobody: nothing has set request.user or request.state.user by the "
        "time an endpoint runs; write app.add_middleware(AuthenticationMiddleware, backend=...), "
        "or give a resolver of your own, resolver=find_user. Code of your own that authenticates "
        "says of a visitor: request.state.user = None",
    )


class UserContext:
    """Give every request of a Starlette or FastAPI app a user of its own.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. Unlike `app.add_middleware` it goes around Starlette's own error
    handling: `get_user()` knows the user in `exception_handler(500)` too. Middlewares may be
    added before and after it, up to the first request.

    Args:
        app: the application; None where `init_app` is called later.
        options: as `UserContextMiddleware` of `usercontext.asgi` takes them.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, app: Starlette | None = None, **options: Unpack[ContextOptions]) -> None:
        self._middleware = UserContextMiddleware(no_app, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Starlette) -> None:
        """Put the middleware around all that an app is made of.

        Raises:
            ConfigurationError: it is not a Starlette app, has started, or has a `UserContext`.
        """
        _check(app)
        _initialised.add(app)
        build = app.build_middleware_stack

        def build_around() -> ASGIApp:
            return self._middleware.around(build())

        app.build_middleware_stack = build_around  # type: ignore[method-assign]


def _check(app: Starlette) -> None:
    check_app(
        app,
        Starlette,
        "a Starlette or FastAPI app",
        "around another ASGI app write UserContextMiddleware(app) of usercontext.asgi",
    )
    hint = "an app mounted in it may have a UserContext of its own"
    check_first(app in _initialised, hint=hint)
    hint = "write UserContext(app) where the app is made, before its first request"
    check_waiting(app.middleware_stack is not None, hint=hint)
