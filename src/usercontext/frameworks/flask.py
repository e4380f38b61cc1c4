"""Flask: the WSGI middleware, and the errors that Flask turns into responses itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from flask import got_request_exception

from usercontext import resolution
from usercontext.capture import report_unhandled
from usercontext.record import current
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    import flask

    from usercontext.options import ContextOptions

__all__ = ["UserContext"]


class UserContext:
    """Give every request of a Flask app a user of its own, and report its unhandled errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It wraps `app.wsgi_app`, and asks the resolver inside Flask's
    request, where `session` and Flask-Login's `current_user` work.

    Args:
        app: the application; None where `init_app` is called later.
        options: as `UserContextMiddleware` of `usercontext.wsgi` takes them.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, app: flask.Flask | None = None, **options: Unpack[ContextOptions]) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Put the middleware around an app, and listen for its errors."""
        app.wsgi_app = UserContextMiddleware(  # type: ignore[assignment,method-assign]
            app.wsgi_app, **self._options
        )
        got_request_exception.connect(_report, app)


def _report(_sender: object, exception: BaseException | None = None, **_extra: Any) -> None:
    """Report an error that Flask answers with a 500, while its request is still there."""
    record = current()
    if record is None or not isinstance(exception, Exception):
        return
    resolution.ask(record)
    report_unhandled(exception, record)
