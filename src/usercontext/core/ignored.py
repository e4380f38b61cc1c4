"""Which errors are left out of the reports: a client that goes away, and what the app names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usercontext.checks import listed
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["IgnoredErrors", "checked_errors", "is_client_gone"]

# What frameworks and servers raise in an app whose client has gone away: by name, as none of
# them is imported. Errors that outgoing connections raise too have no place here.
_CLIENT_GONE: Final = frozenset(
    {
        "blacksheep.exceptions.MessageAborted",
        "blacksheep.server.websocket.WebSocketDisconnectError",
        "channels.exceptions.RequestAborted",
        "django.core.exceptions.RequestAborted",
        "django.http.request.UnreadablePostError",
        "falcon.errors.WebSocketDisconnected",
        "gunicorn.http.errors.NoMoreData",
        "litestar.exceptions.websocket_exceptions.WebSocketDisconnect",
        "sanic.exceptions.WebsocketClosed",
        "starlette.requests.ClientDisconnect",
        "starlette.websockets.WebSocketDisconnect",
        "tornado.websocket.WebSocketClosedError",
        "uvicorn.protocols.utils.ClientDisconnected",
        "werkzeug.exceptions.ClientDisconnected",
    }
)


class IgnoredErrors:
    """Tells the errors that an app wants left out, by class or by dotted name.

    A subclass is left out with its class, and a group of which every member is left out.

    Args:
        errors: exception classes, or dotted names such as `"app.errors.Expected"`, whose modules
            are not imported.
    """

    __slots__ = ("_classes", "_names")

    def __init__(self, errors: Iterable[type[BaseException] | str]) -> None:
        self._names: frozenset[str] = frozenset(one for one in errors if isinstance(one, str))
        self._classes: tuple[type[BaseException], ...] = tuple(
            one for one in errors if isinstance(one, type)
        )

    def __contains__(self, error: BaseException) -> bool:
        if isinstance(error, BaseExceptionGroup) and type(error) not in self._classes:
            return all(member in self for member in error.exceptions)
        return isinstance(error, self._classes) or not self._names.isdisjoint(_names_of(error))


def checked_errors(option: str, value: object) -> IgnoredErrors:
    """Return what an option lists, or raise the ConfigurationError that mends it."""
    what = "exception classes and dotted names"
    errors = listed(option, value, what, f"[{_shown(value)}]")
    for error in errors:
        _check(option, error)
    return IgnoredErrors(errors)


def _check(option: str, error: object) -> None:
    if isinstance(error, type) and issubclass(error, BaseException):
        return
    if isinstance(error, str) and all(part.isidentifier() for part in error.split(".")):
        if "." in error:
            return
        raise ConfigurationError(
            f"{option}: {error!r} names no module: write the dotted name, such as "
            f"'builtins.{error}', or the class itself"
        )
    raise ConfigurationError(
        f"{option}: {_shown(error)} is neither an exception class nor a dotted name: write "
        f"{option}=[KeyError, 'app.errors.Expected']"
    )


def _shown(value: object) -> str:
    if isinstance(value, type):
        return value.__qualname__
    return (
        repr(value)
        if isinstance(value, str | bytes)
        else f"a value of type {type(value).__qualname__}"
    )


def is_client_gone(error: BaseException) -> bool:
    """Tell whether an error says no more than that the client has gone away."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_client_gone, error.exceptions))
    return not _CLIENT_GONE.isdisjoint(_names_of(error))


def _names_of(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__[:-2]]
