"""Request-scoped user identity: say once who makes a request, and every report names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usercontext._version import __version__
from usercontext.address.client import ClientAddress
from usercontext.core.capture import capture_exception, capture_message
from usercontext.core.current import (
    bind,
    get_client_address,
    get_user,
    isolation_scope,
    message_scope,
    resolve_again,
    resolve_user,
    set_reporting,
    set_request_data,
    set_user,
    update_user,
    use_user,
)
from usercontext.core.record import NOT_YET
from usercontext.core.settings import Settings as UserContext
from usercontext.exceptions import (
    ConfigurationError,
    InvalidDsnError,
    InvalidUserError,
    MissingDependencyError,
    UserContextError,
)
from usercontext.initialise import aclose, aflush, close, flush, init
from usercontext.request import RequestData
from usercontext.user import User

__all__ = [
    "NOT_YET",
    "ClientAddress",
    "ConfigurationError",
    "InvalidDsnError",
    "InvalidUserError",
    "MissingDependencyError",
    "RequestData",
    "User",
    "UserContext",
    "UserContextError",
    "__version__",
    "aclose",
    "aflush",
    "bind",
    "capture_exception",
    "capture_message",
    "close",
    "flush",
    "get_client_address",
    "get_user",
    "init",
    "isolation_scope",
    "message_scope",
    "resolve_again",
    "resolve_user",
    "set_reporting",
    "set_request_data",
    "set_user",
    "update_user",
    "use_user",
]


if not TYPE_CHECKING:  # a type checker would take every name to exist

    def __getattr__(name: str) -> object:
        if name == "UserContextMiddleware":
            # An ImportError: of an AttributeError, `from usercontext import ...` hides the text.
            raise ImportError(
                "there is one UserContextMiddleware for each interface: write `from "
                "usercontext.asgi import UserContextMiddleware` for FastAPI, Starlette and other "
                "ASGI apps, and `from usercontext.wsgi import UserContextMiddleware` for Flask, "
                "Django and other WSGI apps"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
