"""Sessions of OpenID Connect: who logged in, read without a trace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import flask
import pytest

pytest.importorskip("django")

from tests.frameworks.django_project import OURS, serve_asgi, serve_wsgi

# isort: split
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path
from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.wrappers import Request

from tests.driver import environ_of, scope_of
from usercontext import asgi, capture_message, init, wsgi
from usercontext.core.record import UNKNOWN
from usercontext.exceptions import ConfigurationError
from usercontext.resolvers import OidcSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient

# What Authlib's recipes keep: `session["user"] = token["userinfo"]`.
USERINFO = {
    "iss": "https://id.example",
    "sub": "1",
    "preferred_username": "ada",
    "email": "ada@shop.example",
    "email_verified": True,
    "name": "Ada",
    "nonce": "n",
}
ADA = {"id": "1", "username": "ada", "email": "ada@shop.example", "name": "Ada"}


@pytest.fixture
def recorder(usercontext_recorder: RecordingClient) -> Iterator[RecordingClient]:
    """Keep what is reported."""
    init(client=usercontext_recorder)
    return usercontext_recorder


def users(recorder: RecordingClient) -> list[Any]:
    """Return whom the reports named."""
    return [event.get("user") for event in recorder.events]


def starlette_app(*, logs_in: bool = False, **options: Any) -> Any:
    """Make an app of Starlette's that reports, and may log its user in before."""

    async def cart(request: Any) -> PlainTextResponse:
        if logs_in:
            request.session["user"] = USERINFO
        capture_message("x")
        return PlainTextResponse("ok")

    sessions = Middleware(SessionMiddleware, secret_key="key")
    app = Starlette(routes=[Route("/cart", cart)], middleware=[sessions])
    return asgi.UserContextMiddleware(app, resolver=OidcSession(**options))


def test_starlettes_session(recorder: RecordingClient) -> None:
    """Who logs in is named, in this request and in the next; that response sets no cookie."""
    client = TestClient(starlette_app(logs_in=True), base_url="https://shop.example")
    client.get("/cart")
    signed = client.cookies["session"]
    assert TimestampSigner("key").unsign(signed)
    quiet = TestClient(starlette_app(), cookies={"session": signed})
    response = quiet.get("/cart")
    assert users(recorder) == [ADA, ADA]
    assert {"set-cookie", "vary"}.isdisjoint(response.headers)


def flask_app() -> Any:
    """Make an app of Flask's that reports, or logs its user in."""
    app = flask.Flask("shop")
    app.secret_key = "key"

    @app.get("/login")
    def login() -> str:
        flask.session["user"] = USERINFO
        return "ok"

    @app.get("/cart")
    def cart() -> str:
        capture_message("x")
        return "ok"

    app.wsgi_app = wsgi.UserContextMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, resolver=OidcSession()
    )
    return app


def test_flasks_session(recorder: RecordingClient) -> None:
    """A report is not a reason for a response to vary by cookie."""
    client = flask_app().test_client()
    client.get("/login")
    response = client.get("/cart")
    assert users(recorder) == [ADA]
    assert {"Set-Cookie", "Vary"}.isdisjoint(response.headers.keys())


def report_to_django(request: Any) -> HttpResponse:
    """Report something."""
    capture_message("x")
    return HttpResponse("ok")


def load_session(request: Any) -> HttpResponse:
    """Report something, once the app itself has read the session."""
    request.session.get("cart")
    capture_message("x")
    return HttpResponse("ok")


urlpatterns = [path("cart", report_to_django), path("read", load_session)]


def in_django(test: Any) -> Any:
    """Run a test with sessions in signed cookies, and our resolver."""
    return override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[OURS, "django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        USERCONTEXT={"resolver": OidcSession()},
    )(test)


def cookie() -> str:
    """Return the cookie of who has logged in to Django."""
    session = SessionStore()
    session["user"] = USERINFO
    session.save()
    return f"sessionid={session.session_key}"


def header_names(messages: list[Any]) -> set[bytes]:
    """Return the headers of an ASGI response."""
    return {name.lower() for name, _ in messages[0]["headers"]}


@in_django
def test_djangos_session(recorder: RecordingClient) -> None:
    """Read in a sync view, it counts as untouched."""
    messages = serve_asgi("cart", cookie=cookie())
    serve_wsgi("cart", cookie=cookie())
    serve_wsgi("cart")
    assert users(recorder) == [ADA, ADA, None]
    assert {b"set-cookie", b"vary"}.isdisjoint(header_names(messages))


@in_django
def test_what_the_app_reads_counts(recorder: RecordingClient) -> None:
    """A session that the app has read stays accessed."""
    messages = serve_asgi("read", cookie=cookie())
    assert users(recorder) == [ADA]
    assert b"vary" in header_names(messages)


@in_django
def test_djangos_session_in_a_loop() -> None:
    """Where loading would block, the question stays open, until the app has loaded it."""
    session = SessionStore(cookie().partition("=")[2])

    class Carrying:
        def __init__(self) -> None:
            self.session = session

    async def ask() -> list[object]:
        before = OidcSession()(Carrying())
        await session.aget("cart")
        return [before, OidcSession()(Carrying())]

    assert asyncio.run(ask()) == [UNKNOWN, ADA]


class Marking(dict[str, Any]):
    """A session that notes that it was read, as Flask's does before 3.1.3."""

    accessed = False

    def get(self, key: str, default: Any = None) -> Any:
        self.accessed = True
        return super().get(key, default)


def test_a_session_that_notes_its_readers() -> None:
    """We are none of them."""
    session = Marking(user=USERINFO)
    assert OidcSession()(HTTPConnection({**scope_of(), "session": session})) == ADA
    assert not session.accessed


def test_where_there_is_no_session_yet() -> None:
    """The question stays open: the middleware of sessions may come later."""
    assert OidcSession()(HTTPConnection(scope_of())) is UNKNOWN
    assert OidcSession()(Request(environ_of())) is UNKNOWN


@pytest.mark.parametrize("userinfo", [None, "ada", {}, {"sub": None}, {"sub": ""}])
def test_nobody_has_logged_in(userinfo: Any) -> None:
    """What is not a userinfo names nobody."""
    scope = {**scope_of(), "session": {"user": userinfo}}
    assert OidcSession()(HTTPConnection(scope)) is None


def test_other_keys_claims_and_sessions() -> None:
    """Where a framework keeps its session elsewhere, or an app its userinfo."""
    kept = {"token": {"userinfo": {**USERINFO, "email_verified": False, "org": "shop"}}}
    resolver = OidcSession(
        "userinfo",
        claims={"id": "sub", "email": "email", "organisation": "org"},
        session=lambda request: kept["token"],
    )
    assert resolver(object()) == {"id": "1", "organisation": "shop"}


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"key": ""}, "key must be"),
        ({"session": {}}, "session must be a function"),
        ({"claims": {"id": 1}}, "claims must map"),
    ],
)
def test_what_is_refused(options: Any, fix: str) -> None:
    """Wrong options say what to write instead."""
    with pytest.raises(ConfigurationError, match=fix):
        OidcSession(**options)
