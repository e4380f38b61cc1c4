"""The plain middlewares report what frameworks swallow, without a module of ours."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import environ_of, wsgi_request
from usercontext import asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.testing import RecordingClient

ADA = {"x-user": "ada"}


def of_header(request: Any) -> dict[str, str]:
    """Find the user that a header names."""
    return {"id": request.headers["x-user"]}


def users(recorder: RecordingClient) -> list[str | None]:
    """Return whom each report names."""
    return [(event.get("user") or {}).get("id") for event in recorder.events]


# --- Flask --------------------------------------------------------------------------------------


def wrap_wsgi_app(app: Any) -> Any:
    """Wrap as the README says."""
    app.wsgi_app = wsgi.UserContextMiddleware(app.wsgi_app, resolver=of_header)
    return app


def wrap_object(app: Any) -> Any:
    """Wrap the Flask object itself."""
    return wsgi.UserContextMiddleware(app, resolver=of_header)


def wrap_twice(app: Any) -> Any:
    """Wrap both."""
    return wrap_object(wrap_wsgi_app(app))


def wrap_others(app: Any) -> Any:
    """Wrap what another middleware is around."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    app.wsgi_app = ProxyFix(app.wsgi_app)
    return wrap_wsgi_app(app)


def wrap_with_module(app: Any) -> Any:
    """Wrap an app that has the module's `UserContext` as well."""
    from usercontext.frameworks.flask import UserContext

    UserContext(app)
    return wrap_object(app)


@pytest.mark.parametrize(
    "wrap", [wrap_wsgi_app, wrap_object, wrap_twice, wrap_others, wrap_with_module]
)
def test_flasks_errors_are_reported_once(
    wrap: Callable[[Any], Any], usercontext_recorder: RecordingClient
) -> None:
    """Flask answers with a 500 itself, however it is wrapped."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.get("/cart")(lambda: {}["order"])
    wsgi_request(wrap(app), environ_of(x_user="ada"))
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_answer_of_flasks_is_no_report(usercontext_recorder: RecordingClient) -> None:
    """What an error handler of the app answers is handled."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.register_error_handler(KeyError, lambda error: ("sorry", 500))
    app.get("/cart")(lambda: {}["order"])
    wsgi_request(wrap_wsgi_app(app), environ_of(x_user="ada"))
    assert usercontext_recorder.events == []


def test_an_app_outside_of_every_request_is_let_be(usercontext_recorder: RecordingClient) -> None:
    """Another app of the process, which nobody has wrapped, is nobody's to report."""
    flask = pytest.importorskip("flask")
    wrap_object(flask.Flask("wrapped"))
    app = flask.Flask("shop")
    app.get("/cart")(lambda: {}["order"])
    app.test_client().get("/cart")
    assert usercontext_recorder.events == []


# --- Quart --------------------------------------------------------------------------------------


def test_quarts_errors_are_reported_once(usercontext_recorder: RecordingClient) -> None:
    """Quart answers with a 500 itself."""
    quart = pytest.importorskip("quart")
    pytest.importorskip("starlette")
    app = quart.Quart("shop")

    async def fail() -> None:
        raise KeyError("order")

    app.get("/")(fail)
    app.asgi_app = asgi.UserContextMiddleware(app.asgi_app, resolver=of_header)
    response = asyncio.run(app.test_client().get("/", headers=ADA))
    assert response.status_code == 500
    assert users(usercontext_recorder) == ["ada"]


# --- Django -------------------------------------------------------------------------------------

DJANGO = """
import sys
sys.path.insert(0, {root!r})
import usercontext
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import path
from tests.driver import asgi_request, environ_of, scope_of, wsgi_request
from usercontext import asgi, wsgi
from usercontext.testing import RecordingClient

def fail(request):
    raise KeyError("order")

async def fail_async(request):
    raise KeyError("order")

urlpatterns = [path("cart", fail), path("async", fail_async)]
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None)
recorder = RecordingClient()
usercontext.init(client=recorder)

def of_header(request):
    return {{"id": request.headers["x-user"]}}

app = wsgi.UserContextMiddleware(get_wsgi_application(), resolver=of_header)
wsgi_request(app, environ_of(x_user="ada"))
wsgi_request(wsgi.UserContextMiddleware(app), environ_of(x_user="bob"))
app = asgi.UserContextMiddleware(get_asgi_application(), resolver=of_header)
for target, name in (("/cart", "eve"), ("/async", "joe")):
    asgi_request(app, {{**scope_of(x_user=name), "path": target}})
assert not any(name.startswith("usercontext.frameworks.django") for name in sys.modules)
print([event["user"]["id"] for event in recorder.events])
"""


def test_djangos_errors_are_reported_once() -> None:
    """Over both interfaces, wrapped twice too, without the middleware for `MIDDLEWARE`."""
    pytest.importorskip("django")
    pytest.importorskip("starlette")
    pytest.importorskip("werkzeug")
    from tests.conftest import ROOT

    program = [sys.executable, "-c", DJANGO.format(root=str(ROOT))]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout.strip() == "['ada', 'bob', 'eve', 'joe']", ended.stderr


CONFIGURED_IN_SETTINGS = """
import logging, sys
sys.path.insert(0, {root!r})
import django
import loguru
import structlog
import usercontext
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from tests.driver import environ_of, wsgi_request
from usercontext.clients.logging import LoggingClient
from usercontext.clients.loguru import LoguruClient
from usercontext.clients.structlog import StructlogClient

def cart(request):
    usercontext.set_user({{"id": 1}})
    logging.getLogger("shop").warning("logging")
    structlog.get_logger().info("structlog")
    loguru.logger.info("loguru")
    return HttpResponse()

urlpatterns = [path("cart", cart)]
usercontext.init(None, clients=[LoggingClient(), StructlogClient(), LoguruClient()])
structlog.configure(processors=[structlog.processors.JSONRenderer(sort_keys=True)])
loguru.logger.remove()
loguru.logger.add(sys.stdout, format="{{extra[user_id]}} {{message}}")
loguru.logger.configure(patcher=lambda record: None)
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
    MIDDLEWARE=["usercontext.frameworks.django.UserContextMiddleware"],
    LOGGING={{
        "version": 1,
        "formatters": {{"user": {{"format": "%(user_id)s %(message)s"}}}},
        "handlers": {{"out": {{
            "class": "logging.StreamHandler", "stream": sys.stdout, "formatter": "user",
        }}}},
        "root": {{"handlers": ["out"]}},
    }},
)
wsgi_request(get_wsgi_application(), environ_of())
"""


def test_clients_find_what_djangos_settings_configure() -> None:
    """With `init()` in the settings, loggers that are configured after it name the user."""
    for name in ("django", "structlog", "loguru"):
        pytest.importorskip(name)
    from tests.conftest import ROOT

    program = [sys.executable, "-c", CONFIGURED_IN_SETTINGS.format(root=str(ROOT))]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout.splitlines() == [
        "1 logging",
        '{"event": "structlog", "user_id": "1"}',
        "1 loguru",
    ], ended.stderr


# --- those that tell nobody ---------------------------------------------------------------------


def falcon_app() -> Any:
    """Make an app of Falcon's."""
    return importlib.import_module("falcon").App()


def bottle_app() -> Any:
    """Make an app of Bottle's."""
    return importlib.import_module("bottle").Bottle().wsgi


@pytest.mark.parametrize(("name", "make"), [("falcon", falcon_app), ("bottle", bottle_app)])
def test_a_framework_that_tells_nobody_is_said(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the plain middleware cannot see the errors, the log says what can."""
    pytest.importorskip(name)
    monkeypatch.delitem(sys.modules, f"usercontext.frameworks.{name}", raising=False)
    wsgi.UserContextMiddleware(make())
    assert f"usercontext.frameworks.{name}" in caplog.text


def test_a_framework_that_lets_errors_pass_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """Starlette raises what it has answered again: there is nothing to say."""
    starlette = pytest.importorskip("starlette.applications")
    asgi.UserContextMiddleware(starlette.Starlette())
    assert caplog.records == []


def test_an_error_that_flask_passes_on_may_be_handled_outside(
    usercontext_recorder: RecordingClient,
) -> None:
    """In testing mode Flask raises on what it has announced, and another middleware answers it."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.testing = True
    app.get("/cart")(lambda: {}["order"])

    def answering(environ: Any, start_response: Any) -> Any:
        try:
            return app.wsgi_app(environ, start_response)
        except KeyError:
            start_response("409 Conflict", [])
            return [b"sorry"]

    wsgi_request(wsgi.UserContextMiddleware(answering), environ_of())
    assert usercontext_recorder.events == []


def test_the_user_of_an_error_is_found_inside_flask(usercontext_recorder: RecordingClient) -> None:
    """What stands in `g` is gone where the error that Flask raises on is reported."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.testing = True

    @app.get("/cart")
    def cart() -> str:
        flask.g.user = {"id": "ada"}
        raise KeyError("order")

    served = wsgi.UserContextMiddleware(app, resolver=lambda _: flask.g.get("user"))
    with pytest.raises(KeyError):
        wsgi_request(served, environ_of())
    assert users(usercontext_recorder) == ["ada"]
