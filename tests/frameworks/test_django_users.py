"""Django's ready resolver: who `request.user` is, asked only where a report needs to know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")

from tests.frameworks.django_project import (
    AUTHENTICATION,
    log_in,
    migrate,
    serve_asgi,
    serve_wsgi,
)

# isort: split
from django import VERSION
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection, connections, models
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils.functional import SimpleLazyObject

from usercontext import capture_message
from usercontext.core.record import UNKNOWN
from usercontext.frameworks.django import request_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest

    from usercontext.testing import RecordingClient

seen: list[Any] = []


def quiet(request: HttpRequest) -> HttpResponse:
    """Report nothing; keep the request, to be looked at afterwards."""
    seen.append(request)
    return HttpResponse("ok")


async def quiet_async(request: HttpRequest) -> HttpResponse:
    """Report nothing, in an async view."""
    seen.append(request)
    return HttpResponse("ok")


def reporting(request: HttpRequest) -> HttpResponse:
    """Report twice, and answer the same to everybody."""
    capture_message("hello")
    capture_message("hello again")
    return HttpResponse("ok")


def greeting(request: HttpRequest) -> HttpResponse:
    """Report something, and then answer each with a page of their own."""
    capture_message("hello")
    return HttpResponse(f"hello {request.user}")


def entering(request: HttpRequest) -> HttpResponse:
    """Log somebody in, between two reports."""
    capture_message("before")
    login(request, authenticate(request, username="ben", password="ben's password"))
    capture_message("after")
    return HttpResponse("welcome")


def leaving(request: HttpRequest) -> HttpResponse:
    """Log somebody out, between two reports."""
    capture_message("before")
    logout(request)
    capture_message("after")
    return HttpResponse("bye")


async def leaving_async(request: HttpRequest) -> HttpResponse:
    """Log somebody out in an async view, whose user it has awaited, then report."""
    from django.contrib.auth import alogout

    await request.auser()
    await alogout(request)
    capture_message("after")
    return HttpResponse("bye")


urlpatterns = [
    path("quiet", quiet),
    path("quiet-async", quiet_async),
    path("reporting", reporting),
    path("greeting", greeting),
    path("entering", entering),
    path("leaving", leaving),
    path("leaving-async", leaving_async),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    seen.clear()
    migrate()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=AUTHENTICATION):
        yield
    connections.close_all()


@pytest.fixture
def ada() -> Client:
    """A client of somebody who has logged in."""
    client = Client(raise_request_exception=False)
    name, _, value = log_in("ada").partition("=")
    client.cookies[name] = value
    return client


def names(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


# What it costs


def test_a_request_that_reports_nothing_asks_nobody(
    ada: Client, usercontext_recorder: RecordingClient
) -> None:
    """No query, no look at the session, and so no `Vary: Cookie`."""
    with CaptureQueriesContext(connection) as queries:
        response = ada.get("/quiet")
    assert len(queries) == 0
    assert not seen[0].session.accessed
    assert "Vary" not in response.headers


def test_an_async_request_that_reports_nothing_asks_nobody(
    usercontext_recorder: RecordingClient,
) -> None:
    """Nor does an async view pay for a user whom nobody wants to know."""
    (start, *_) = serve_asgi("quiet-async", cookie=log_in("ada"))
    assert not seen[0].session.accessed
    assert b"vary" not in {name.lower() for name, _ in start["headers"]}


def test_several_reports_ask_once(ada: Client, usercontext_recorder: RecordingClient) -> None:
    """Two queries, as for every first look at `request.user`: the session, and the user."""
    with CaptureQueriesContext(connection) as queries:
        ada.get("/reporting")
    assert len(queries) == 2
    assert names(usercontext_recorder) == ["ada", "ada"]


def test_a_page_that_shows_its_user_still_varies_by_cookie(
    ada: Client, usercontext_recorder: RecordingClient
) -> None:
    """What a report has read counts as read: the view's own look at the user marks nothing.

    Were the mark taken back, a shared cache would show one user's page to another.
    """
    response = ada.get("/greeting")
    assert response.content == b"hello ada"
    assert response.headers["Vary"] == "Cookie"


# Who it is


def test_who_logs_in_is_named_from_then_on(
    client_of_nobody: Client, usercontext_recorder: RecordingClient
) -> None:
    """A report before `login()` names nobody, one after it the new user."""
    User.objects.create_user("ben", password="ben's password")
    client_of_nobody.get("/entering")
    assert names(usercontext_recorder) == [None, "ben"]


@pytest.fixture
def client_of_nobody() -> Client:
    """A client without a session."""
    return Client(raise_request_exception=False)


def test_who_logs_out_is_named_until_then(
    ada: Client, usercontext_recorder: RecordingClient
) -> None:
    """A report after `logout()` names nobody, whatever was cached before."""
    ada.get("/leaving")
    assert names(usercontext_recorder) == ["ada", None]


def test_a_resolver_of_ones_own_is_asked_once(
    ada: Client, usercontext_recorder: RecordingClient
) -> None:
    """`login()` and `logout()` are Django's: who has other users says so with `set_user()`."""
    calls: list[Any] = []
    with override_settings(USERCONTEXT={"resolver": calls.append}):
        ada.get("/leaving")
    assert len(calls) == 1


@pytest.mark.skipif(VERSION < (5, 0), reason="request.auser() came with Django 5.0")
def test_who_logs_out_in_an_async_view_is_gone(usercontext_recorder: RecordingClient) -> None:
    """`alogout()` leaves the cache of `auser()` behind, which is not the user any more."""
    serve_asgi("leaving-async", cookie=log_in("ada"))
    assert names(usercontext_recorder) == [None]


def request_with(**attributes: Any) -> Any:
    """Make a request that something has been found out about."""
    request = RequestFactory().get("/")
    vars(request).update(attributes)
    return request


ANN, BEN = User(pk=1, username="ann"), User(pk=2, username="ben")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"_acached_user": ANN, "_cached_user": BEN}, ANN),
        ({"_cached_user": ANN, "user": SimpleLazyObject(lambda: BEN)}, ANN),
        # `login()` and Django REST framework put a user there after somebody looked.
        ({"_cached_user": AnonymousUser(), "user": ANN}, ANN),
        ({"_acached_user": BEN, "_cached_user": BEN, "user": ANN}, ANN),
        ({"user": SimpleLazyObject(lambda: ANN)}, ANN),
        ({}, UNKNOWN),
    ],
)
def test_the_best_answer_comes_first(found: dict[str, Any], expected: object) -> None:
    """Who was put there, who was found before, and then only `request.user` itself."""
    assert request_user(request_with(**found)) == expected


def test_no_lazy_user_is_read_on_a_loop() -> None:
    """On an event loop request.user would raise: the question stays open until auser()."""

    async def ask(request: Any) -> object:
        return request_user(request)

    assert asyncio.run(ask(request_with(user=SimpleLazyObject(pytest.fail)))) is UNKNOWN
    assert asyncio.run(ask(request_with(user=ANN))) is ANN


def test_a_lazy_user_who_was_read_is_known_on_a_loop() -> None:
    """What a middleware's own lazy object has found needs no query any more."""
    lazy = SimpleLazyObject(lambda: ANN)
    assert lazy.pk == 1

    async def ask() -> object:
        return request_user(request_with(user=lazy))

    assert asyncio.run(ask()) == ANN


class Member(AbstractBaseUser):
    """A user model of one's own, without a username."""

    phone = models.CharField(max_length=20, unique=True)
    secret = models.CharField(max_length=20)
    USERNAME_FIELD = "phone"

    class Meta:
        app_label = "auth"
        managed = False


def as_member(get_response: Any) -> Any:
    """Authenticate every request as a member, as a middleware of one's own does."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.user = SimpleLazyObject(lambda: Member(pk=5, phone="+49 30 1234", secret="x"))
        return get_response(request)

    return middleware


@override_settings(MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.as_member"])
def test_a_custom_model_is_named_by_its_username_field(
    usercontext_recorder: RecordingClient,
) -> None:
    """A model of one's own is reported by its identity alone, whatever its fields are called."""
    serve_wsgi("reporting")
    users = [event["user"] for event in usercontext_recorder.events]
    assert users == [{"id": "5", "username": "+49 30 1234"}] * 2


@override_settings(MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.as_member"])
def test_a_lazy_user_of_ones_own_is_found_from_an_async_view(
    usercontext_recorder: RecordingClient,
) -> None:
    """Where auser() knows nobody, what a middleware put into request.user is read after all."""

    async def report(request: HttpRequest) -> HttpResponse:
        capture_message("hello")
        return HttpResponse("ok")

    urlpatterns.append(path("report-async", report))
    serve_asgi("report-async")
    assert names(usercontext_recorder) == ["+49 30 1234"]


@override_settings(MIDDLEWARE=AUTHENTICATION[:1])
def test_without_authentication_there_is_nobody(usercontext_recorder: RecordingClient) -> None:
    """A request that has no `user` at all is reported without one."""
    serve_wsgi("reporting")
    assert names(usercontext_recorder) == [None, None]
