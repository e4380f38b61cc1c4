"""Limits per client: one line makes the client's address the key, inside of ours and outside."""

from __future__ import annotations

from typing import Any

import pytest

import usercontext
from tests.requests_of import environ_of, scope_of
from usercontext import RequestData, get_client_address
from usercontext.asgi import UserContextMiddleware
from usercontext.wsgi import UserContextMiddleware as WSGIMiddleware

BEHIND_NGINX = RequestData(include_ip=True, trusted_proxies=["127.0.0.1"])
PLACES = pytest.mark.parametrize("place", ["inside", "outside"])


@pytest.fixture(autouse=True)
def behind_nginx() -> None:
    """Say where the app runs."""
    usercontext.init(None, request_data=BEHIND_NGINX)


@PLACES
def test_slowapi(place: str) -> None:
    """slowapi: as `key_func`, with its decorator inside and its middleware outside."""
    slowapi = pytest.importorskip("slowapi")
    pytest.importorskip("httpx")
    from slowapi.middleware import SlowAPIMiddleware
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    limiter = slowapi.Limiter(
        key_func=lambda request: str(get_client_address(request).address),
        default_limits=["1/minute"] if place == "outside" else [],
    )

    def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette()
    app.state.limiter = limiter
    app.add_exception_handler(
        slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler
    )
    app.add_route("/", limiter.limit("1/minute")(answer) if place == "inside" else answer)
    app.add_middleware(UserContextMiddleware)
    if place == "outside":
        app.add_middleware(SlowAPIMiddleware)
    client = TestClient(app, client=("127.0.0.1", 50000))
    assert statuses(lambda headers: client.get("/", headers=headers).status_code) == [200, 429, 200]


def statuses(ask: Any) -> list[int]:
    """Return what two requests of one client and one of another are answered."""
    clients = ("203.0.113.9", "203.0.113.9", "203.0.113.10")
    return [
        ask({"X-Forwarded-For": f"6.6.6.{number}, {client}"})
        for number, client in enumerate(clients)
    ]


@PLACES
def test_flask_limiter(place: str) -> None:
    """Flask-Limiter: as `key_func`; without our middleware `init()` says what to trust."""
    flask_limiter = pytest.importorskip("flask_limiter")
    import flask

    app = flask.Flask("shop")
    flask_limiter.Limiter(
        key_func=lambda: str(get_client_address(flask.request).address),
        app=app,
        default_limits=["1/minute"],
        storage_uri="memory://",
    )
    app.get("/")(lambda: "ok")
    if place == "inside":
        app.wsgi_app = WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    client = app.test_client()
    assert statuses(lambda headers: client.get("/", headers=headers).status_code) == [200, 429, 200]


DJANGO = """
import json, sys
from django.conf import settings
import usercontext
from usercontext import RequestData, get_client_address

settings.configure(
    SECRET_KEY="x", ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", *sys.argv[2:]],
    AUTHENTICATION_BACKENDS=["axes.backends.AxesStandaloneBackend"] if "axes" in sys.argv else [],
    RATELIMIT_IP_META_KEY=lambda request: get_client_address(request).address or "0.0.0.0",
    AXES_CLIENT_IP_CALLABLE=lambda request: get_client_address(request).address,
    AXES_FAILURE_LIMIT=1, SILENCED_SYSTEM_CHECKS=["django_ratelimit.E003", "django_ratelimit.W001"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
import django
django.setup()
usercontext.init(
    None, request_data=RequestData(include_ip=True, trusted_proxies=["127.0.0.1"])
)
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from usercontext.wsgi import UserContextMiddleware

if "axes" in sys.argv:
    call_command("migrate", verbosity=0)

    def view(request):
        before = getattr(request, "axes_locked_out", False)
        authenticate(request, username="ada", password="wrong")
        return HttpResponse(status=429 if getattr(request, "axes_locked_out", before) else 200)
else:
    from django_ratelimit.core import is_ratelimited

    def view(request):
        over = is_ratelimited(request, group="g", key="ip", rate="1/m", increment=True)
        return HttpResponse(status=429 if over else 200)

urlpatterns = [path("", view)]
app = get_wsgi_application()
if sys.argv[1] == "inside":
    app = UserContextMiddleware(app)

def ask(number, client):
    from django.test import RequestFactory
    environ = RequestFactory().get("/", HTTP_X_FORWARDED_FOR=f"6.6.6.{number}, {client}").environ
    seen = []
    list(app(environ, lambda status, headers, exc_info=None: seen.append(int(status[:3]))))
    return seen[0]

clients = ("203.0.113.9", "203.0.113.9", "203.0.113.10")
print(json.dumps([ask(number, client) for number, client in enumerate(clients)]))
if "axes" in sys.argv:
    from axes.models import AccessAttempt
    print(json.dumps(sorted(one.ip_address for one in AccessAttempt.objects.all())))
"""


def run_django(place: str, *apps: str) -> list[Any]:
    """Run a project in a process of its own, and return what it prints."""
    import json
    import subprocess
    import sys

    command = [sys.executable, "-c", DJANGO, place, *apps]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@PLACES
def test_django_ratelimit(place: str) -> None:
    """django-ratelimit: as RATELIMIT_IP_META_KEY."""
    pytest.importorskip("django_ratelimit")
    assert run_django(place) == [[200, 429, 200]]


@PLACES
def test_django_axes(place: str) -> None:
    """django-axes: as AXES_CLIENT_IP_CALLABLE, whose attempts name the clients."""
    pytest.importorskip("axes")
    _, addresses = run_django(place, "axes")
    assert addresses == ["203.0.113.10", "203.0.113.9"]


# --- any request ----------------------------------------------------------------------------------


class Request:
    """A request of some framework's."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


HEADERS = [("X-Forwarded-For", "6.6.6.6, 203.0.113.9")]
REQUESTS = {
    "a scope": scope_of("127.0.0.1", HEADERS),
    "an environ": environ_of("127.0.0.1", HEADERS),
    "one with a scope": Request(scope=scope_of("127.0.0.1", HEADERS)),
    "one with an environ": Request(environ=environ_of("127.0.0.1", HEADERS)),
    "Django's": Request(META=environ_of("127.0.0.1", HEADERS)),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_outside_of_ours(request_: object) -> None:
    """Its address is found by what `init()` was given."""
    assert get_client_address(request_).address == "203.0.113.9"


@pytest.mark.parametrize("request_", [object(), {}, Request(scope=None)])
def test_what_is_no_request(request_: object) -> None:
    """It has no address, and nothing is raised."""
    assert get_client_address(request_).reason == "no-peer"


def test_the_middleware_of_a_request_has_the_last_word() -> None:
    """Inside of ours its own options apply, and they do when the request is asked about after."""
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(get_client_address(environ))
        return []

    options = RequestData(trusted_proxies=["198.51.100.1"])
    environ = environ_of("127.0.0.1", HEADERS)
    WSGIMiddleware(app, request_data=options)(environ, None)  # type: ignore[arg-type]
    assert [seen[0].address, get_client_address(environ).address] == ["127.0.0.1", "127.0.0.1"]
