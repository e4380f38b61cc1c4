"""Django: errors that it swallows are reported with the request's own user, sync and async."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

django = pytest.importorskip("django")

from django.conf import settings  # noqa: E402

if not settings.configured:
    settings.configure(
        SECRET_KEY="not a secret",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["usercontext.frameworks.django.UserContextMiddleware"],
        DEBUG_PROPAGATE_EXCEPTIONS=False,
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()

from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.urls import path  # noqa: E402

from tests.driver import asgi_request, environ_of, scope_of, wsgi_request  # noqa: E402
from usercontext import ConfigurationError, RequestData, asgi, get_user, set_user, testing, wsgi  # noqa: E402  # noqa: E402
from usercontext.frameworks.django import UserContextMiddleware, request_user  # noqa: E402
from usercontext.record import UNKNOWN  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from django.http import HttpRequest

    from usercontext.testing import RecordingClient

seen: list[Any] = []


class Account:
    """A model as `request.user` gives it, with a field that must never leave."""

    is_authenticated = True
    is_anonymous = False

    def __init__(self, name: str) -> None:
        self.pk = name
        self.email = f"{name}@shop.example"
        self.password = "x"

    def get_username(self) -> str:
        return self.pk


def fail(request: HttpRequest) -> HttpResponse:
    """Fail as a view does, its user read by nobody before."""
    request.user = Account("ada")
    raise LookupError("no such thing")


async def fail_async(request: HttpRequest) -> HttpResponse:
    """Fail in an async view that has awaited its user."""
    request._acached_user = Account("ada")
    raise LookupError("no such thing")


def me(request: HttpRequest) -> HttpResponse:
    """Note who the user is."""
    user = get_user()
    seen.append(None if user is None else user.to_dict())
    return HttpResponse("ok")


def setting(request: HttpRequest) -> HttpResponse:
    """Set a user, and stream a body that notes it."""
    set_user({"id": 7})

    def chunks() -> Iterator[bytes]:
        seen.append(get_user())
        yield b"x"

    return StreamingHttpResponse(chunks())


async def setting_async(request: HttpRequest) -> HttpResponse:
    """Set a user, and stream an async body that notes it."""
    set_user({"id": 7})

    async def chunks() -> AsyncIterator[bytes]:
        seen.append(get_user())
        yield b"x"

    return StreamingHttpResponse(chunks())


urlpatterns = [
    path("fail", fail),
    path("fail-async", fail_async),
    path("me", me),
    path("stream", setting),
    path("stream-async", setting_async),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    testing.reset()
    seen.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield
    testing.reset()


def serve_wsgi(target: str, **headers: str) -> bytes:
    """Serve one request by Django's WSGI handler, with the settings of this moment."""
    environ = {**environ_of(**headers), "PATH_INFO": f"/{target}"}
    return wsgi_request(WSGIHandler(), environ)


def serve_asgi(target: str, **headers: str) -> int:
    """Serve one request by Django's ASGI handler; return the status."""
    scope = {**scope_of(**headers), "path": f"/{target}"}
    status: int = asgi_request(ASGIHandler(), scope)[0]["status"]
    return status


def test_a_swallowed_error_names_djangos_own_user(usercontext_recorder: RecordingClient) -> None:
    """Without a resolver the report names request.user: four fields, and never the model."""
    serve_wsgi("fail")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "username": "ada", "email": "ada@shop.example"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_async_views_error_names_the_user_it_awaited(
    usercontext_recorder: RecordingClient,
) -> None:
    """What `await request.auser()` found is read, and never request.user (defect 6)."""
    assert serve_asgi("fail-async") == 500
    (event,) = usercontext_recorder.events
    assert event["user"]["id"] == "ada"


def test_a_sync_views_error_over_asgi_names_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """A sync view runs in a thread, and its error is reported once all the same."""
    assert serve_asgi("fail") == 500
    (event,) = usercontext_recorder.events
    assert event["user"]["id"] == "ada"


@pytest.mark.parametrize("resolver", [lambda r: {"id": r.headers["x-user"]}, "by path"])
def test_the_resolver_gets_djangos_request(
    resolver: Any, usercontext_recorder: RecordingClient
) -> None:
    """USERCONTEXT names the resolver, as a function or as a dotted path."""
    if resolver == "by path":
        resolver = "tests.frameworks.django_resolver.by_header"
    with override_settings(USERCONTEXT={"resolver": resolver}):
        serve_wsgi("fail", x_user="bob")
        serve_asgi("fail-async", x_user="eve")
    assert [event["user"] for event in usercontext_recorder.events] == [
        {"id": "bob"},
        {"id": "eve"},
    ]


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """The report of an async chain waits for an async resolver until the request's end."""

    async def resolver(request: HttpRequest) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    with override_settings(USERCONTEXT={"resolver": resolver}):
        serve_asgi("fail-async", x_user="eve")
    assert [event.get("user") for event in usercontext_recorder.events] == [{"id": "eve"}]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_inside_the_wrapping_middleware_there_is_one_record(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """The middleware that wraps the application and Django's share one request and one report."""
    options: Any = {
        "resolver": lambda request: {"id": request.headers["x-user"]},
        "request_data": RequestData(include_ip=True),
    }
    if interface == "wsgi":
        app = wsgi.UserContextMiddleware(WSGIHandler(), **options)
        wsgi_request(app, {**environ_of(x_user="eve"), "PATH_INFO": "/fail"})
    else:
        asgi_app = asgi.UserContextMiddleware(ASGIHandler(), **options)
        asgi_request(asgi_app, {**scope_of(x_user="eve"), "path": "/fail"})
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "eve", "ip_address": "203.0.113.9"}


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "stream"), (serve_asgi, "stream-async")]
)
def test_a_streamed_body_knows_its_user(serve: Any, target: str) -> None:
    """A body that is iterated after the middleware returned still runs in its request."""
    serve(target)
    assert [user.id for user in seen] == ["7"]
    assert get_user() is None


def test_one_request_never_shows_another_ones_user() -> None:
    """Nobody's request after somebody's is nobody's, in the same thread and loop."""
    for serve, target in ((serve_wsgi, "stream"), (serve_asgi, "stream-async")):
        serve(target)
        serve("me")
    assert seen[1::2] == [None, None]


def test_request_user_reads_no_lazy_user_on_a_loop() -> None:
    """On an event loop request.user would raise: the question stays open until auser()."""

    class Lazy:
        @property
        def user(self) -> object:
            raise AssertionError("read on a loop")

    async def ask() -> object:
        return request_user(Lazy())

    assert asyncio.run(ask()) is UNKNOWN


def test_a_wrong_setting_names_itself() -> None:
    """A wrong USERCONTEXT raises when Django loads the middleware."""
    with (
        override_settings(USERCONTEXT={"resolvr": None}),
        pytest.raises(ConfigurationError, match="did you mean resolver"),
    ):
        UserContextMiddleware(lambda _: HttpResponse())
