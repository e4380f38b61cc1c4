"""What sentry-sdk collects of a request by itself: only what our options ask for leaves."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import pytest
import sentry_sdk
import sentry_sdk.logger
import sentry_sdk.metrics
from sentry_sdk.integrations import asgi as sentry_asgi
from sentry_sdk.integrations import wsgi as sentry_wsgi
from sentry_sdk.session import Session

from tests.clients.sentry_sdk_kept import IS_3, VERSION
from tests.clients.serving import BOTH
from tests.clients.serving import serve as serve_handler
from tests.driver import asgi_call, environ_of, scope_of, wsgi_request
from usercontext import RequestData, asgi, set_user, wsgi
from usercontext.clients.sentry_sdk import SentrySdkClient

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option is deprecated")

ALL: dict[str, Any] = {
    "send_default_pii": True,
    "enable_logs": True,
    "traces_sample_rate": 1.0,
    "attach_stacktrace": True,
    **({"trace_lifecycle": "stream"} if VERSION >= (2, 66) else {}),
}
PEER, SPOOFED, COOKIE, BODY = "203.0.113.9", "6.6.6.6", "crumbs-of-ada", "number-of-a-card"
ORDERS = pytest.mark.parametrize("order", ["outside", "inside"])


def say(told: Any = None) -> None:
    """Send one of each kind that is not a span; tell the SDK a user before, if there is one."""
    if told is not None:
        sentry_sdk.set_user(told)
    sentry_sdk.logger.info("paid")
    sentry_sdk.metrics.count("orders", 1)
    sentry_sdk.capture_message("paid")


def flask_app(order: str, options: Any, told: Any = None) -> Any:
    """Make an app in which Flask-Login has logged bob in."""
    flask = pytest.importorskip("flask")
    flask_login = pytest.importorskip("flask_login")
    app = flask.Flask("shop")
    app.secret_key = "x"

    class Login(flask_login.UserMixin):
        id, email = "bob", "bob@shop.example"

    flask_login.LoginManager(app).request_loader(lambda _: Login())

    @app.post("/cart")
    def cart() -> str:
        flask_login.current_user.get_id()
        flask.request.get_json()
        say(told)
        return "paid"

    if order == "inside":
        app.wsgi_app = wsgi.UserContextMiddleware(app.wsgi_app, **options)
        return app
    return wsgi.UserContextMiddleware(app, **options)


def starlette_app(order: str, options: Any, told: Any = None) -> Any:
    """Make an app whose AuthenticationMiddleware says that it is bob."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware import Middleware
    from starlette.middleware.authentication import AuthenticationMiddleware
    from starlette.responses import PlainTextResponse

    class Backend(AuthenticationBackend):
        async def authenticate(self, _conn: Any) -> Any:
            return AuthCredentials([]), SimpleUser("bob")

    async def cart(request: Any) -> Any:
        await request.json()
        say(told)
        return PlainTextResponse("paid")

    stack = [Middleware(AuthenticationMiddleware, backend=Backend())]
    if order == "inside":
        stack.append(Middleware(asgi.UserContextMiddleware, **options))
    app = Starlette(middleware=stack)
    app.router.add_route("/cart", cart, methods=["POST"])
    return asgi.UserContextMiddleware(app, **options) if order == "outside" else app


def variables_of_others(kept: Any) -> str:
    """Return the variables of the attached stacks, but for these tests' own."""
    frames = [
        frame
        for event in kept.of("event")
        for thread in event["threads"]["values"]
        for frame in thread["stacktrace"]["frames"]
    ]
    return str([one.get("vars") for one in frames if not one["module"].startswith("tests.")])


APPS = pytest.mark.parametrize("make", [flask_app, starlette_app])


def serve(app: Any) -> None:
    """Post a body with cookies and a spoofed header."""
    body = f'{{"card": "{BODY}"}}'.encode()
    headers = {"x_forwarded_for": SPOOFED, "cookie": f"crumb={COOKIE}"}
    if isinstance(app, wsgi.UserContextMiddleware) or hasattr(app, "wsgi_app"):
        environ = environ_of(**headers)
        environ |= {"REQUEST_METHOD": "POST", "wsgi.input": BytesIO(body)}
        environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
        wsgi_request(app, environ)
        return
    scope = scope_of(content_type="application/json", content_length=str(len(body)), **headers)
    asyncio.run(asgi_call(with_body(app, body), {**scope, "method": "POST"}))


def with_body(app: Any, body: bytes) -> Any:
    """Give an app a body, which the driver's requests have not."""

    async def with_body(scope: Any, _receive: Any, send: Any) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, receive, send)

    return with_body


def integrations(make: Any) -> list[Any]:
    """Return the framework's integration, or skip where it is not installed."""
    name = make.__name__.removesuffix("_app")
    pytest.importorskip(name)
    module = pytest.importorskip(f"sentry_sdk.integrations.{name}")
    return [getattr(module, f"{name.title()}Integration")()]


def parts(kept: Any) -> str:
    """Return all that was sent but for the stack, where the app's own variables are."""
    sentry_sdk.flush()
    events = [{n: v for n, v in event.items() if n != "threads"} for event in kept.of("event")]
    return str([events, [item for item in kept.items if item[0] != "event"]])


@APPS
@ORDERS
def test_what_nobody_asked_for_is_taken_out(make: Any, order: str, sentry: Any) -> None:
    """Addresses, cookies, the body and the framework's user: of events, spans, logs, metrics."""
    kept = sentry(integrations=integrations(make), **ALL)
    serve(make(order, {"clients": [SentrySdkClient()]}))
    told = parts(kept)
    assert {kind for kind, _ in kept.items} >= {"event", "log", "trace_metric"}
    for unasked in (PEER, SPOOFED, COOKIE, BODY, "bob"):
        assert unasked not in told
    variables = variables_of_others(kept)
    assert "'environ'" in variables or "'scope'" in variables
    for unasked in (PEER, SPOOFED, COOKIE):
        assert unasked not in variables


@APPS
@ORDERS
def test_what_our_options_ask_for_stays(make: Any, order: str, sentry: Any) -> None:
    """Our address in place of the header's, and what the SDK read of cookies and body."""
    kept = sentry(integrations=integrations(make), **ALL)
    data = RequestData(include_ip=True, include_cookies=True, include_data=True)
    serve(make(order, {"clients": [SentrySdkClient()], "request_data": data}))
    (event,) = kept.of("event")
    assert event["user"] == {"ip_address": PEER}
    assert event["request"]["cookies"] == {"crumb": COOKIE}
    assert event["request"]["data"] == {"card": BODY}
    assert SPOOFED not in str(event["request"].get("env"))


@APPS
@ORDERS
def test_nothing_is_blended_into_whom_the_app_tells(make: Any, order: str, sentry: Any) -> None:
    """Whom it sets itself stays, without what the framework knows of whoever has logged in."""
    kept = sentry(integrations=integrations(make), **ALL)
    serve(make(order, {"clients": [SentrySdkClient()]}, told={"id": "9"}))
    assert kept.users() == [{"id": "9"}]
    assert [one.get("user.id") for one in kept.telemetry("log")] == ["9"]


@BOTH
def test_an_attached_stack_is_cleaned_and_scrubbed(interface: str, sentry: Any) -> None:
    """The SDK adds it behind all processors; the app's own hook is given it as it leaves."""
    seen: list[Any] = []
    kept = sentry(before_send=lambda event, _: (seen.append(event), event)[1], **ALL)

    def app_says() -> None:
        reply_to = "ada@shop.example"
        sentry_sdk.capture_message(f"hello {len(reply_to)}")

    serve_handler(interface, app_says, SentrySdkClient(), scrub=["@email:mask"])
    (event,) = kept.of("event")
    frames = event["threads"]["values"][0]["stacktrace"]["frames"]
    variables = str([frame.get("vars") for frame in frames])
    assert "reply_to" in variables
    assert "ada@shop.example" not in variables
    assert PEER not in variables
    assert seen[0]["threads"] == event["threads"]


@pytest.mark.skipif(not IS_3, reason="the switches of version 2 are off by default")
@APPS
def test_with_version_3s_defaults_our_user_is_named_everywhere(make: Any, sentry: Any) -> None:
    """It collects unless told not to: so every kind names our user, and no other."""
    kept = sentry(integrations=integrations(make), traces_sample_rate=1.0, data_collection={})

    options: Any = {"clients": [SentrySdkClient()], "resolver": lambda _: {"id": 1}}
    serve(make("outside", {**options, "request_data": RequestData(include_ip=True)}))
    assert kept.users() == [{"id": "1", "ip_address": PEER}]
    (segment,) = kept.telemetry("span", only_segments=True)
    assert (segment["user.id"], segment["user.ip_address"]) == ("1", PEER)
    assert segment["client.address"] == PEER


# --- what of the SDK is private -----------------------------------------------------------------


def test_the_private_names_that_we_use_are_there() -> None:
    """One that moves fails here, by its name, before it fails somewhere else."""
    scope = sentry_sdk.Scope()
    for name in ("_event_processors", "_name", "_session", "_span", "_user"):
        assert hasattr(scope, name), name
    assert sentry_asgi._asgi_middleware_applied.get(False) is False
    assert sentry_wsgi._wsgi_middleware_applied.get(False) is False
    session = Session(user={"id": "1", "ip_address": PEER})
    assert (session.did, session.ip_address) == ("1", PEER)
    assert isinstance(sentry_sdk.scope.global_event_processors, list)


@pytest.mark.skipif(VERSION < (2, 66), reason="sentry-sdk streams spans from 2.66 on")
def test_a_streamed_span_knows_its_segment(sentry: Any) -> None:
    """By a private name, and its attributes can be read and removed."""
    sentry(**ALL)
    with (
        sentry_sdk.traces.start_span(name="request") as segment,
        sentry_sdk.traces.start_span(name="query") as span,
    ):
        assert span._segment is segment
        assert sentry_sdk.get_current_scope()._span is span
        segment.set_attribute("client.address", PEER)
        segment.remove_attribute("client.address")
        assert "client.address" not in segment.get_attributes()


def test_the_name_under_which_the_sdk_calls_itself_is_known(sentry: Any) -> None:
    """An integration is told from the app by the module that calls `set_user()`."""
    kept = sentry()
    calling = "import sentry_sdk\ndef tell(user): sentry_sdk.set_user(user)"

    def handler() -> None:
        for module in ("shop.auth", "sentry_sdk.integrations.starlette"):
            names: dict[str, Any] = {"__name__": module}
            exec(calling, names)
            names["tell"]({"id": module})
        sentry_sdk.capture_message("hello")
        set_user({"id": 1})

    serve_handler("wsgi", handler, SentrySdkClient())
    assert sentry_sdk.api.set_user.__module__ == "sentry_sdk.api"
    assert kept.users() == [{"id": "shop.auth"}]
