"""Errors that nobody wants to hear of: those the app names, and clients that go away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import asgi_request, plain_asgi_app, plain_wsgi_app, wsgi_request
from usercontext import ConfigurationError, asgi, capture_exception, wsgi
from usercontext.core.ignored import is_client_gone
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable


def raising(error: Exception) -> Callable[[], None]:
    """Return a handler that fails."""

    def fail() -> None:
        raise error

    return fail


class ExpectedError(Exception):
    """What an app raises on purpose."""


class LateError(ExpectedError):
    """A kind of it."""


NAME = f"{__name__}.ExpectedError"
LISTS = {"class": [ExpectedError], "dotted name": [NAME], "among others": [KeyError, NAME]}
ERRORS = {
    "itself": ExpectedError(),
    "a subclass": LateError(),
    "a group": ExceptionGroup("all of them", [LateError(), ExpectedError()]),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("errors", LISTS.values(), ids=LISTS)
def test_what_the_app_ignores_is_not_reported(errors: list[Any], error: Exception) -> None:
    """An error that `ignore_errors` names passes unreported, and unchanged."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, ignore_errors=errors)
    with pytest.raises(type(error)):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(raising(error))))
    with pytest.raises(type(error)):
        wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(raising(error))))
    assert capture_exception(error) is None
    assert recorder.events == []


def test_other_errors_are_reported() -> None:
    """What is not named is reported, a group with one such member included."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, ignore_errors=[ExpectedError])
    for error in (LookupError(), ExceptionGroup("mixed", [ExpectedError(), LookupError()])):
        assert capture_exception(error) is not None


def test_a_middleware_has_errors_of_its_own() -> None:
    """The option of a middleware stands in place of the one of `init()`."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, ignore_errors=[ExpectedError])
    app = plain_asgi_app(raising(ExpectedError()))
    with pytest.raises(ExpectedError):
        asgi_request(asgi.UserContextMiddleware(app, ignore_errors=[KeyError]))
    assert len(recorder.events) == 1


WRONG = {
    "a class": (KeyError, r"write ignore_errors=\[KeyError\]"),
    "a text": ("app.ExpectedError", r"write ignore_errors=\['app.ExpectedError'\]"),
    "a name without a module": (["ExpectedError"], "'builtins.ExpectedError'"),
    "a path": (["app/errors.py"], "neither an exception class nor a dotted name"),
    "another class": ([int], "int is neither"),
    "an instance": ([KeyError()], "type KeyError is neither"),
}


@pytest.mark.parametrize(("value", "match"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_ignored_is_refused(value: Any, match: str) -> None:
    """A wrong list raises when it is given, and says what to write."""
    with pytest.raises(ConfigurationError, match=match):
        usercontext.init(None, ignore_errors=value)


def gone(path: str) -> type[Exception]:
    """Return a class by its dotted name; skip where its package is missing."""
    module, _, name = path.rpartition(".")
    kind: type[Exception] = getattr(pytest.importorskip(module), name)
    return kind


# As an app imports them, wherever they are defined.
GONE = [
    "blacksheep.exceptions.MessageAborted",
    "blacksheep.server.websocket.WebSocketDisconnectError",
    "channels.exceptions.RequestAborted",
    "django.core.exceptions.RequestAborted",
    "django.http.request.UnreadablePostError",
    "falcon.WebSocketDisconnected",
    "fastapi.WebSocketDisconnect",
    "gunicorn.http.errors.NoMoreData",
    "litestar.exceptions.WebSocketDisconnect",
    "sanic.exceptions.WebsocketClosed",
    "starlette.requests.ClientDisconnect",
    "starlette.websockets.WebSocketDisconnect",
    "tornado.websocket.WebSocketClosedError",
    "uvicorn.protocols.utils.ClientDisconnected",
    "werkzeug.exceptions.ClientDisconnected",
]


@pytest.mark.parametrize("path", GONE)
def test_a_client_that_goes_away_is_no_error(path: str) -> None:
    """What a framework raises when its client has gone is not reported, unless the app asks."""
    kind = gone(path)
    error = kind.__new__(kind)
    recorder = RecordingClient()
    usercontext.init(client=recorder)
    with pytest.raises(kind):
        wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(raising(error))))
    assert recorder.events == []
    assert capture_exception(error) is not None


def test_connections_to_others_are_errors() -> None:
    """A connection that breaks may be the app's own, to its database: it is reported."""
    assert not any(map(is_client_gone, (ConnectionResetError(), BrokenPipeError(), TimeoutError())))
