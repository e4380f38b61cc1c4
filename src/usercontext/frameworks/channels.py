"""Channels: the user that its `AuthMiddleware` puts into the scope of a websocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from usercontext import asgi
from usercontext.core.following import NOT_YET, follows
from usercontext.core.record import current
from usercontext.diagnostics import warn_once
from usercontext.frameworks.django.users import is_read
from usercontext.optional import importing

with importing("django", "django", purpose="usercontext.frameworks.channels"):
    from django.contrib.auth.signals import user_logged_in, user_logged_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions
    from usercontext.types import ASGIApp

__all__ = ["UserContext", "UserContextMiddleware", "scope_user"]


def _scope_itself(scope: Any) -> object:
    return scope


class UserContextMiddleware(asgi.UserContextMiddleware):
    """Give every websocket of Channels a user of its own, and report its consumers' errors.

    It stands inside of the authentication, which hands on a copy of the scope:
    `AuthMiddlewareStack(UserContext(URLRouter([...])))`.

    Args:
        app: the router, or a consumer's `as_asgi()`.
        options: see `ContextOptions`. The resolver is called with the ASGI scope, as consumers
            have it in `self.scope`; by default it is `scope_user`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    #: The resolver is handed the scope, which consumers have too.
    make_request: Callable[[Any], object] = staticmethod(_scope_itself)

    def __init__(self, app: ASGIApp, **options: Unpack[ContextOptions]) -> None:
        if options.get("resolver") is None:
            options["resolver"] = scope_user
        user_logged_in.connect(_logged_in, dispatch_uid="usercontext.channels")
        user_logged_out.connect(_logged_out, dispatch_uid="usercontext.channels")
        super().__init__(app, **options)


#: The name that every framework's entry point has.
UserContext = UserContextMiddleware


def _held(scope: Any, _request: object = None) -> object:
    user = NOT_YET if scope is None else scope.get("user", NOT_YET)
    # AuthMiddleware fills its lazy object once it has asked the database.
    return user if is_read(user) else NOT_YET


def _places(scope: Any, _request: object) -> Places:
    return [(scope, "user")]


@follows(_held, _places)
def scope_user(scope: Any) -> object:
    """Return the user in an ASGI scope, where `AuthMiddleware` puts it: a ready resolver.

    `login()` and `logout()` of `channels.auth` are followed.
    """
    if "user" not in scope:
        _warn_outside(scope)
    return _held(scope)


def _put(user: object) -> None:
    """Put a user where the record looks: consumers behind a URLRouter have a copy of the scope."""
    record = current()
    if record is not None and record.settings.resolver is scope_user:
        source: Any = record.root.source
        if source is not None and "user" in source:
            source["user"] = user


def _logged_in(*, request: object = None, user: object = None, **_extra: Any) -> None:
    if request is None:
        _put(user)


def _logged_out(*, request: object = None, **_extra: Any) -> None:
    if request is None:
        _put(None)


def _warn_outside(scope: Any) -> None:
    if scope["type"] == "websocket":
        warn_once(
            "scope_user",
            "scope_user found no user in a websocket's scope: put UserContextMiddleware inside of "
            "AuthMiddlewareStack, as AuthMiddlewareStack(UserContextMiddleware(URLRouter(...)))",
        )
