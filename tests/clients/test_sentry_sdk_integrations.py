"""sentry-sdk's integrations with frameworks: they tell Sentry a user of their own, ours wins."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sentry_sdk
import sentry_sdk.logger

from tests.clients.sentry_sdk_kept import IS_3, VERSION
from tests.driver import asgi_request, environ_of, scope_of, wsgi_request
from usercontext import RequestData, asgi, get_user, wsgi
from usercontext.clients.sentry_sdk import SentrySdkClient

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option is deprecated")

ROOT = Path(__file__).parent.parent.parent
BOB = {"id": "9", "username": "bob", "email": "bob@shop.example"}
ADAS = {"id": "1", "username": "ada", "ip_address": "203.0.113.9"}
ORDERS = pytest.mark.parametrize("order", ["outside", "inside"])


def options() -> Any:
    """Return what our middleware is given."""
    return {
        "clients": [SentrySdkClient()],
        "resolver": lambda _: {"id": 1, "username": "ada"},
        "request_data": RequestData(include_ip=True),
    }


def fail() -> None:
    """Log a line, fail as an app does."""
    get_user()
    sentry_sdk.logger.info("paid")
    raise LookupError("no such order")


def starlette(order: str, make: Callable[..., Any] | None = None) -> Any:
    """Make an app whose AuthenticationMiddleware says that it is bob."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware import Middleware
    from starlette.middleware.authentication import AuthenticationMiddleware

    class Backend(AuthenticationBackend):
        async def authenticate(self, _conn: Any) -> Any:
            return AuthCredentials([]), SimpleUser("bob")

    async def cart(_request: Any) -> None:
        fail()

    stack = [Middleware(AuthenticationMiddleware, backend=Backend())]
    if order == "inside":
        stack.append(Middleware(asgi.UserContextMiddleware, **options()))
    app = (make or Starlette)(middleware=stack)
    app.router.add_route("/cart", cart)
    return asgi.UserContextMiddleware(app, **options()) if order == "outside" else app


def fastapi(order: str) -> Any:
    """Make the same with FastAPI."""
    return starlette(order, pytest.importorskip("fastapi").FastAPI)


def litestar(order: str) -> Any:
    """Make an app whose middleware puts bob into the scope."""
    litestar = pytest.importorskip("litestar")
    from litestar.middleware import DefineMiddleware

    def log_in(app: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            scope["user"] = dict(BOB)
            await app(scope, receive, send)

        return middleware

    @litestar.get("/cart")
    async def cart() -> None:
        fail()

    stack = [log_in]
    if order == "inside":
        stack.append(DefineMiddleware(asgi.UserContextMiddleware, **options()))
    app = litestar.Litestar([cart], middleware=stack, openapi_config=None)
    return asgi.UserContextMiddleware(app, **options()) if order == "outside" else app


def quart(order: str) -> Any:
    """Make an app in which Quart-Auth has logged bob in."""
    quart = pytest.importorskip("quart")
    quart_auth = pytest.importorskip("quart_auth")
    app = quart.Quart("shop")
    app.secret_key = "x"
    quart_auth.QuartAuth(app)

    @app.before_request
    async def log_in() -> None:
        quart_auth.login_user(quart_auth.AuthUser("9"))

    @app.get("/cart")
    async def cart() -> None:
        fail()

    if order == "inside":
        app.asgi_app = asgi.UserContextMiddleware(app.asgi_app, **options())
        return app
    return asgi.UserContextMiddleware(app, **options())


def flask(order: str) -> Any:
    """Make an app in which Flask-Login has logged bob in."""
    flask = pytest.importorskip("flask")
    flask_login = pytest.importorskip("flask_login")
    app = flask.Flask("shop")
    app.secret_key = "x"

    class Login(flask_login.UserMixin):
        id, email, username = BOB["id"], BOB["email"], BOB["username"]

    flask_login.LoginManager(app).request_loader(lambda _: Login())

    @app.get("/cart")
    def cart() -> None:
        flask_login.current_user.get_id()
        fail()

    if order == "inside":
        app.wsgi_app = wsgi.UserContextMiddleware(app.wsgi_app, **options())
        return app
    return wsgi.UserContextMiddleware(app, **options())


FRAMEWORKS = pytest.mark.parametrize("make", [starlette, fastapi, litestar, quart, flask])


def integrations(make: Callable[..., Any]) -> list[Any]:
    """Return the framework's integrations, or skip where it is not installed."""
    pytest.importorskip(make.__name__)
    names = {"fastapi": ["starlette.Starlette", "fastapi.FastApi"]}
    made = []
    for name in names.get(make.__name__, [f"{make.__name__}.{make.__name__.title()}"]):
        module, _, integration = name.partition(".")
        found = import_module(f"sentry_sdk.integrations.{module}")
        made.append(getattr(found, f"{integration}Integration")())
    return made


def serve(app: Any) -> None:
    """Send a request with a spoofed header; its error may pass or be answered."""
    try:
        if isinstance(app, wsgi.UserContextMiddleware) or hasattr(app, "wsgi_app"):
            wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))
        else:
            asgi_request(app, scope_of(x_forwarded_for="6.6.6.6"))
    except LookupError:
        return


@FRAMEWORKS
@ORDERS
def test_errors_transactions_and_logs_name_our_user(make: Any, order: str, sentry: Any) -> None:
    """Whomever the framework logged in, and whatever the header says."""
    kept = sentry(
        integrations=integrations(make),
        send_default_pii=True,
        traces_sample_rate=1.0,
        enable_logs=True,
    )
    serve(make(order))
    assert kept.users() == [ADAS]
    assert kept.users("transaction") == [ADAS]
    assert [log["user.id"] for log in kept.telemetry("log")] == ["1"]
    requests = [event["request"] for event in kept.of("event") + kept.of("transaction")]
    addresses = {one.get("env", {}).get("REMOTE_ADDR") for one in requests}
    assert addresses <= {"203.0.113.9", None}


@FRAMEWORKS
@ORDERS
@pytest.mark.skipif(VERSION < (2, 66), reason="sentry-sdk streams spans from 2.66 on")
def test_streamed_spans_name_our_user(make: Any, order: str, sentry: Any) -> None:
    """Those of the request and those in it: none names the framework's user, or the header."""
    kept = sentry(
        integrations=integrations(make),
        send_default_pii=True,
        traces_sample_rate=1.0,
        trace_lifecycle="stream",
    )
    serve(make(order))
    spans = kept.telemetry("span")
    assert "1" in {span.get("user.id") for span in spans}
    assert {span.get("user.id") for span in spans} <= {"1", None}
    told = [{n: v for n, v in span.items() if not n.startswith("http.request")} for span in spans]
    assert "6.6.6.6" not in str(told)
    assert "bob" not in str(spans)


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@ORDERS
def test_djangos_integration_does_not_blend_users(interface: str, order: str) -> None:
    """Whom Django logged in fills nothing of ours, on errors as on transactions."""
    pytest.importorskip("django")
    program = [sys.executable, "-m", "tests.clients.sentry_sdk_on_django", interface, order]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    told = {"id": "1", "ip_address": "203.0.113.9"}
    assert [user for user, _ in reported] == [told] * (1 if IS_3 else 2)
    assert {address for _, address in reported} <= {"203.0.113.9", None}
