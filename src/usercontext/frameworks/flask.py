"""Flask: the WSGI middleware, and the errors that Flask turns into responses itself."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Unpack

from usercontext.core.following import NOT_YET, follows
from usercontext.core.options import checked
from usercontext.core.record import KEY
from usercontext.core.swallowed import fail_current_now
from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import check_app, check_first, find_current
from usercontext.optional import importing
from usercontext.wsgi import UserContextMiddleware

with importing("flask", "flask", purpose="usercontext.frameworks.flask"):
    import flask

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.following import Places
    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_EXTENSION = "usercontext"


# Flask's own variables: every attribute of its proxies costs as much as all else here.
_app_context: Any = flask.globals._cv_app.get
# From 3.2 on one context stands for both.
_has_one_context = not hasattr(flask.globals, "_cv_request")
_request_context: Any = getattr(flask.globals, "_cv_request", flask.globals._cv_app).get


def _held(environ: Any, _request: object) -> object:
    context = _app_context(None)
    if context is None:
        return NOT_YET
    here = _request_context(None)
    # A request may be served, or be asked about, inside another.
    if here is not None and environ is not None and (not _has_one_context or here.has_request):
        own = here.request.environ
        if own is not environ and own.get(KEY) is not environ.get(KEY):
            return NOT_YET
    return context.g.__dict__.get("_login_user", NOT_YET)


def _places(environ: Any, request: object) -> Places:
    return (
        [] if _held(environ, request) is NOT_YET else [(_app_context().g.__dict__, "_login_user")]
    )


@follows(_held, _places)
def request_user(request: Any) -> object:
    """Return who Flask-Login says makes a request: a ready resolver.

    A user that Flask-Login has loaded is taken as it is; else it loads one, from the session or
    however the app does, which happens only where a report needs the user. `login_user()` and
    `logout_user()` are followed. Outside of Flask's context, as in a plain stream, the question
    stays open.
    """
    environ = getattr(request, "environ", None)
    found = _held(environ, None)
    if found is not NOT_YET or not flask.has_request_context():
        return found
    if environ is not None and flask.request.environ.get(KEY) is not environ.get(KEY):
        return NOT_YET
    if not hasattr(flask.current_app, "login_manager"):
        warn_once(
            "request_user without Flask-Login",
            "request_user finds nobody: app %r has no Flask-Login; write LoginManager(app), or "
            "UserContext(app, resolver=...) with a function of your own",
            flask.current_app.name,
        )
        return None
    from flask_login import current_user

    return current_user._get_current_object()


class UserContext:
    """Give every request of a Flask app a user of its own, and report its unhandled errors.

    `UserContext(app, resolver=...)`, or with an app factory `context = UserContext(resolver=...)`
    and `context.init_app(app)`. It wraps `app.wsgi_app`, and asks the resolver inside Flask's
    request, where `session` and Flask-Login's `current_user` work.

    Args:
        app: the application; None where `init_app` is called later.
        options: as `UserContextMiddleware` of `usercontext.wsgi` takes them. For Flask-Login the
            resolver is `request_user` of this module.

    Raises:
        ConfigurationError: an option is wrong, or the app is none, has served requests, or has a
            UserContext already; the message names the fix.
        MissingDependencyError: the resolver is `request_user`, and Flask-Login is not installed.
    """

    def __init__(self, app: flask.Flask | None = None, **options: Unpack[ContextOptions]) -> None:
        if options.get("resolver") is request_user:
            _import_flask_login()
        # Wrong options fail here, also where `init_app` comes later or never.
        self._options = checked(options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Put the middleware around an app, and report what its teardown functions raise.

        Raises:
            ConfigurationError: as for the class. A second call for the same app changes nothing,
                and warns.
        """
        _check_app(app)
        present = app.extensions.get(_EXTENSION)
        if present is self:
            _warn_initialised_twice(app)
            return
        check_first(present, app=f"app {app.name!r}")
        _check_unused(app)
        app.extensions[_EXTENSION] = self
        app.wsgi_app = UserContextMiddleware(  # type: ignore[assignment,method-assign]
            app.wsgi_app, **self._options
        )
        for name in ("do_teardown_request", "do_teardown_appcontext"):
            setattr(app, name, _reporting(getattr(app, name)))
        app.after_request(_find_before_stream)


def _import_flask_login() -> None:
    with importing("flask-login", "flask-login", purpose="request_user over Flask"):
        import flask_login  # noqa: F401


def _check_app(app: object) -> None:
    check_app(
        app,
        flask.Flask,
        "a Flask app",
        "write UserContext(app), where app = Flask(__name__); any other WSGI app takes "
        "usercontext.wsgi.UserContextMiddleware(app)",
    )


def _check_unused(app: flask.Flask) -> None:
    if getattr(app, "_got_first_request", False):
        raise ConfigurationError(
            f"app {app.name!r} has served requests without UserContext: call init_app() where "
            "the app is made, before its first request"
        )


def _warn_initialised_twice(app: flask.Flask) -> None:
    warn_once(
        "init_app twice",
        "init_app() was called twice for app %r, and the second call changes nothing: "
        "UserContext(app) has called it, so write one of the two",
        app.name,
    )


def _find_before_stream(response: flask.Response) -> flask.Response:
    """Take note of the user that Flask-Login found: a stream goes on where nobody can ask it."""
    if response.is_streamed:
        find_current()
    return response


def _reporting(teardown: Callable[..., None]) -> Callable[..., None]:
    """Report what teardown functions raise, and what ends a stream: later no context is left."""

    @wraps(teardown)
    def tear_down(*args: Any, **kwargs: Any) -> None:
        for failed in (*args, *kwargs.values()):
            fail_current_now(failed)
        try:
            teardown(*args, **kwargs)
        except Exception as error:
            fail_current_now(error)
            raise

    return tear_down
