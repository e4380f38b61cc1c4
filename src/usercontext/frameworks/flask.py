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
from usercontext.frameworks.base import check_app, check_first
from usercontext.optional import importing
from usercontext.wsgi import UserContextMiddleware

with importing("flask", "flask", purpose="usercontext.frameworks.flask"):
    import flask
    from flask.globals import app_ctx, request_ctx

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.options import ContextOptions

__all__ = ["UserContext", "request_user"]

_EXTENSION = "usercontext"


def _is_here(environ: Any) -> bool:
    """Return whether Flask's context is that of a request, which may be served inside another."""
    if not flask.has_request_context():
        return flask.has_app_context()
    if environ is None:  # an `isolation_scope` in a `test_request_context`
        return True
    # Past the proxies, whose every attribute costs as much as all else here.
    here: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]
    return here.request.environ.get(KEY) is environ.get(KEY)


def _kept() -> object:
    context: Any = app_ctx._get_current_object()  # type: ignore[attr-defined]
    return vars(context.g).get("_login_user", NOT_YET)


def _held(environ: Any, _request: object) -> object:
    return _kept() if _is_here(environ) else NOT_YET


@follows(_held)
def request_user(request: Any) -> object:
    """Return who Flask-Login says makes a request: a ready resolver.

    A user that Flask-Login has loaded is taken as it is; else it loads one, from the session or
    however the app does, which happens only where a report needs the user. `login_user()` and
    `logout_user()` are followed. Outside of Flask's context, as in a plain stream, the question
    stays open.
    """
    if not _is_here(getattr(request, "environ", None)):
        return NOT_YET
    found = _kept()
    if found is not NOT_YET or not flask.has_request_context():
        return found
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


def _reporting(teardown: Callable[..., None]) -> Callable[..., None]:
    """Report what teardown functions raise: no signal tells, and later no context is left."""

    @wraps(teardown)
    def tear_down(*args: Any, **kwargs: Any) -> None:
        try:
            teardown(*args, **kwargs)
        except Exception as error:
            fail_current_now(error)
            raise

    return tear_down
