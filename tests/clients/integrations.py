"""Run by test_integrations.py: three error trackers' integrations with Flask or with Django.

    python -m tests.clients.integrations flask|django-wsgi|django-asgi outside|inside

Prints what each would have sent of an unhandled error, with `include_ip` and without. They are
set up after `usercontext.init()`, as an app's settings have it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import types
import warnings
from typing import Any, ClassVar

from tests.driver import asgi_call, environ_of, scope_of, wsgi_request
from usercontext import RequestData, asgi, init, wsgi

SENT: dict[str, list[Any]] = {}
SPOOFED = {"x_forwarded_for": "6.6.6.6", "x_real_ip": "6.6.6.6"}


class Login:
    """Who the framework says has logged in."""

    is_authenticated = True
    pk = id = "9"
    username = "bob"
    email = "bob@shop.example"

    @staticmethod
    def get_username() -> str:
        """Return the name as Django does."""
        return "bob"

    @staticmethod
    def get_full_name() -> str:
        """Return the full name as Django does."""
        return "Bob"


class Rollbar:
    """Rollbar, with all of the user that it could send, and no local variables.

    Those of Flask's frames hold the whole environ: the page on Rollbar says so.
    """

    django = "rollbar.contrib.django.middleware.RollbarNotifierMiddleware"
    options: ClassVar[Any] = {
        "handler": "blocking",
        "capture_email": True,
        "capture_username": True,
        "locals": {"enabled": False},
    }
    settings: ClassVar[Any] = {
        "ROLLBAR": {"access_token": "token", "environment": "test", **options}
    }

    def client(self) -> Any:
        """Keep what would be sent; make our client."""
        import rollbar

        from usercontext.clients.rollbar import RollbarClient

        sent = SENT["rollbar"]
        rollbar._send_payload = lambda text, _token: sent.append(json.loads(text)["data"])
        return RollbarClient()

    def flask(self, app: Any) -> None:
        """Set Rollbar up for a Flask app, as every version can be."""
        import rollbar.contrib.flask
        from flask import got_request_exception

        rollbar.init("token", "test", **self.options)
        got_request_exception.connect(rollbar.contrib.flask.report_exception, app)

    def seen(self, item: Any) -> list[Any]:
        """Return the user of an item, and its address."""
        return [item.get("person"), item["request"].get("user_ip")]


class Bugsnag:
    """Bugsnag, with the environment, which it does not send by default."""

    django = "bugsnag.django.middleware.BugsnagMiddleware"

    @property
    def settings(self) -> Any:
        """Return Django's settings for it."""
        return {"BUGSNAG": self.options()}

    def options(self) -> Any:
        """Return options with a delivery that keeps what would be sent."""
        delivery = types.SimpleNamespace(
            deliver=lambda _config, payload, _options=None: SENT["bugsnag"].extend(
                json.loads(payload)["events"]
            ),
            deliver_sessions=lambda *_: None,
        )
        return {
            "api_key": "0" * 32,
            "delivery": delivery,
            "asynchronous": False,
            "auto_capture_sessions": False,
            "send_environment": True,
        }

    def client(self) -> Any:
        """Make our client."""
        from usercontext.clients.bugsnag import BugsnagClient

        return BugsnagClient()

    def flask(self, app: Any) -> None:
        """Set Bugsnag up for a Flask app."""
        import bugsnag
        import bugsnag.flask

        bugsnag.configure(**self.options())
        bugsnag.flask.handle_exceptions(app)

    def seen(self, event: Any) -> list[Any]:
        """Return the user of an event, and its address."""
        return [event["user"], event["metaData"]["environment"].get("REMOTE_ADDR")]


class Honeybadger:
    """Honeybadger, with a hook of the app's in its settings."""

    django = "honeybadger.contrib.DjangoHoneybadgerMiddleware"
    options: ClassVar[Any] = {
        "API_KEY": "key",
        "ENVIRONMENT": "test",
        "BEFORE_NOTIFY": lambda notice: notice,
    }
    settings: ClassVar[Any] = {"HONEYBADGER": options}

    def client(self) -> Any:
        """Keep what would be sent; make our client."""
        from honeybadger import honeybadger

        from usercontext.clients.honeybadger import HoneybadgerClient

        class Connection:
            @staticmethod
            def send_notice(_config: Any, notice: Any) -> None:
                SENT["honeybadger"].append(notice.payload)

        type(honeybadger)._connection = lambda _self: Connection
        return HoneybadgerClient()

    def flask(self, app: Any) -> None:
        """Set Honeybadger up for a Flask app."""
        from honeybadger.contrib import FlaskHoneybadger

        app.config.update({f"HONEYBADGER_{name}": self.options[name] for name in self.options})
        FlaskHoneybadger(app, report_exceptions=True)

    def seen(self, notice: Any) -> list[Any]:
        """Return the user of a notice, and its address."""
        told = notice["request"]
        names = {"user_id", "user_name", "user_email", "username", "email", "client_address"}
        user = {name: value for name, value in told["context"].items() if name in names}
        return [user, told["cgi_data"].get("REMOTE_ADDR")]


TRACKERS: dict[str, Any] = {
    "rollbar": Rollbar(),
    "bugsnag": Bugsnag(),
    "honeybadger": Honeybadger(),
}


def cart(*_: object) -> Any:
    """Fail as a view does."""
    raise LookupError("no such order")


def log_in(get_response: Any) -> Any:
    """Name Django's user, as its own middleware does."""

    def middleware(request: Any) -> Any:
        request.user = Login()
        return get_response(request)

    return middleware


def flask_app(order: str) -> Any:
    """Make an app of Flask, ours around it, or in the place of its own extension."""
    import flask

    from usercontext.frameworks.flask import UserContext

    app = flask.Flask("shop")
    app.add_url_rule("/cart", view_func=cart)
    for tracker in TRACKERS.values():
        tracker.flask(app)
    if order == "outside":
        return wsgi.UserContextMiddleware(app)
    UserContext(app)
    return app


def django_app(order: str, interface: str) -> Any:
    """Make an app of Django, ours around it or one of its middlewares, behind the trackers'."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    theirs = [tracker.django for tracker in TRACKERS.values()]
    ours = ["usercontext.frameworks.django.UserContextMiddleware"] if order == "inside" else []
    urls = types.ModuleType("urls")
    urls.urlpatterns = [path("cart", cart)]  # type: ignore[attr-defined]
    settings.configure(
        SECRET_KEY="x",
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[*theirs, *ours, "tests.clients.integrations.log_in"],
        LOGGING_CONFIG=None,
        **{name: value for one in TRACKERS.values() for name, value in one.settings.items()},
    )
    django.setup()
    app: Any = get_asgi_application() if interface == "asgi" else get_wsgi_application()
    if order == "inside":
        return app
    return (asgi if interface == "asgi" else wsgi).UserContextMiddleware(app)


def serve(app: Any, interface: str) -> dict[str, Any]:
    """Serve one request; return whom each tracker's reports name, and their text."""
    for sent in SENT.values():
        sent.clear()
    if interface == "asgi":
        asyncio.run(asgi_call(app, scope_of(**SPOOFED)))
    else:
        wsgi_request(app, environ_of(**SPOOFED))
    return {
        name: [[TRACKERS[name].seen(report), repr(report)] for report in sent]
        for name, sent in SENT.items()
    }


def main(framework: str, order: str) -> None:
    """Serve a request with addresses, and one without."""
    warnings.simplefilter("ignore")
    framework, _, interface = framework.partition("-")
    SENT.update({name: [] for name in TRACKERS})
    clients = [tracker.client() for tracker in TRACKERS.values()]
    app, reported = None, {}
    for include_ip in (True, False):
        init(
            None,
            clients=clients,
            resolver=lambda _: {"id": 1, "username": "ada"},
            request_data=RequestData(include_ip=include_ip),
        )
        app = app or (flask_app(order) if framework == "flask" else django_app(order, interface))
        reported[str(include_ip)] = serve(app, interface)
    print(json.dumps(reported, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
