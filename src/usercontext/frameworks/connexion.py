"""Connexion: the ASGI middleware in its stack, and the errors that it answers itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakSet

from usercontext.asgi import UserContextMiddleware
from usercontext.core.capture import mark_reported
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import fail
from usercontext.core.passage import of_error
from usercontext.frameworks.base import (
    check_app,
    check_first,
    check_waiting,
    identity_of,
    no_app,
    record_in,
)
from usercontext.optional import importing

with importing("connexion", "connexion", purpose="usercontext.frameworks.connexion"):
    from connexion.apps.abstract import AbstractApp
    from connexion.exceptions import ProblemException
    from connexion.middleware import ConnexionMiddleware, MiddlewarePosition
    from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.requests import HTTPConnection

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.types import ASGIApp, Receive, Scope, Send

__all__ = ["UserContext", "request_user"]

_initialised: WeakSet[Any] = WeakSet()


def _context_in(scope: Any) -> Any:
    return scope.get("extensions", {}).get("connexion_context", {})


def _held(scope: Any, _request: object) -> object:
    return NOT_YET if scope is None else _context_in(scope).get("user", NOT_YET)


def _places(scope: Any, _request: object) -> Places:
    return [(_context_in(scope), "user")]


@follows(_held, _places)
def request_user(connection: HTTPConnection) -> object:
    """Return the user that the app's security function named: a ready resolver.

    It reads what Connexion keeps of that in its context, and follows it: `user` is the id, where
    it is text or a number, and `token_info` may name more. Until it has been called the question
    stays open.
    """
    context = _context_in(connection.scope)
    if "user" not in context:
        return NOT_YET
    user, token = context["user"], context.get("token_info")
    if user is not None and not isinstance(user, str | int):
        return identity_of(user)
    token = token if isinstance(token, Mapping) else {}
    named = {field: token.get(field) for field in ("username", "email", "name")}
    named["username"] = named["username"] or token.get("preferred_username")
    return {"id": user, **named} if user is not None else None


class UserContext:
    """Give every request of a Connexion app a user of its own, and report its unhandled errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It stands before Connexion's own error handling, of which it
    reports what no error handler of the app answers.

    Args:
        app: an `AsyncApp`, a `FlaskApp`, or a `ConnexionMiddleware` around another app; None
            where `init_app` is called later.
        options: as `UserContextMiddleware` of `usercontext.asgi` takes them.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(
        self,
        app: AbstractApp | ConnexionMiddleware | None = None,
        **options: Unpack[ContextOptions],
    ) -> None:
        self._middleware = UserContextMiddleware(no_app, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: AbstractApp | ConnexionMiddleware) -> None:
        """Put the middleware into the stack of an app, before its requests are handled.

        Raises:
            ConfigurationError: it is not a Connexion app, has started, or has a `UserContext`.
        """
        stack = _stack_of(app)
        _initialised.add(stack)
        around: Any = self._middleware.around
        stack.add_middleware(around, position=MiddlewarePosition.BEFORE_EXCEPTION)
        again: Any = _Again
        stack.add_middleware(again, position=MiddlewarePosition.BEFORE_EXCEPTION)
        report: Any = _Reporter
        handlers = stack.error_handlers
        # Just inside of what handles errors, where all of them still pass.
        stack.add_middleware(report, position=MiddlewarePosition.BEFORE_SWAGGER, handlers=handlers)


class _Again:
    """Leaves out what Connexion raises instead of an error that it can answer no more."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:
            record, cause = record_in(scope), error.__cause__
            if record is not None and cause is not None and of_error(cause)[0]:
                mark_reported(error, record)
            raise


class _Reporter:
    """Reports the errors for which the app has no handler of its own."""

    def __init__(self, app: ASGIApp, handlers: Iterable[tuple[Any, Callable[..., Any]]]) -> None:
        self.app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Connexion goes on with a copy: what its security functions find is to be seen here too.
        scope.setdefault("extensions", {})
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            record = record_in(scope)
            if record is not None and not self._is_answered(error):
                await fail(record, error)
            raise

    def _is_answered(self, error: Exception) -> bool:
        if any(isinstance(kind, type) and isinstance(error, kind) for kind, _ in self._handlers):
            return True
        if isinstance(error, ProblemException):
            return bool(error.status < 500)
        return isinstance(error, HTTPException)


def _stack_of(app: AbstractApp | ConnexionMiddleware) -> ConnexionMiddleware:
    stack = app.middleware if isinstance(app, AbstractApp) else app
    hint = "write UserContext(app), where app = AsyncApp(__name__) or FlaskApp(__name__)"
    check_app(stack, ConnexionMiddleware, "a Connexion app", hint)
    check_first(stack in _initialised)
    hint = "write UserContext(app) where the app is made, before its first request"
    check_waiting(stack.middleware_stack is not None, hint=hint)
    return stack
