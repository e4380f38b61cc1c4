"""Django's ready resolver follows logins, tokens and impersonations, whoever asked before."""

from __future__ import annotations

import logging
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
from django.contrib.auth import alogin, alogout, get_user_model, login, logout
from django.db import connection, connections
from django.http import HttpResponse
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path

from usercontext import capture_message, get_user
from usercontext.clients.logging import UserFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

    from usercontext.testing import RecordingClient

BACKEND = "django.contrib.auth.backends.ModelBackend"


def line(*, resolve: bool) -> str | None:
    """Write a log line; return the name that it has."""
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "paid", None, None)
    UserFilter(resolve=resolve).filter(record)
    named: str | None = record.__dict__["user_name"]
    return named


QUESTIONS: dict[str, Callable[[], object]] = {
    "report": lambda: capture_message("early"),
    "resolving": lambda: line(resolve=True),
    "line": lambda: line(resolve=False),
    "get_user": get_user,
}


def account(name: str) -> Any:
    """Return somebody's account."""
    return get_user_model().objects.get(username=name)


def switching(request: HttpRequest, question: str) -> HttpResponse:
    """Log out, and in as somebody else, between questions; then fail."""
    QUESTIONS[question]()
    logout(request)
    QUESTIONS[question]()
    login(request, account("bob"), backend=BACKEND)
    raise KeyError


async def switching_async(request: HttpRequest, question: str) -> HttpResponse:
    """Do the same in an async view, whose user has been awaited."""
    await request.auser()
    QUESTIONS[question]()
    await alogout(request)
    QUESTIONS[question]()
    bob = await get_user_model().objects.aget(username="bob")
    await alogin(request, bob, backend=BACKEND)
    raise KeyError


def leaving(request: HttpRequest, question: str) -> HttpResponse:
    """Log out after a question; then fail."""
    QUESTIONS[question]()
    logout(request)
    raise KeyError


def lines(request: HttpRequest) -> HttpResponse:
    """Write a line before the user has been asked for, and one after it."""
    with CaptureQueriesContext(connection) as queries:
        before = line(resolve=False)
        asked = len(queries)
    _ = request.user.username
    with CaptureQueriesContext(connection) as queries:
        after = line(resolve=False)
        asked += len(queries)
    return HttpResponse(f"{before} {after} {asked}")


def failing(_request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise KeyError


def becoming(request: HttpRequest, name: str) -> HttpResponse:
    """Log in as somebody else by django-loginas, between two reports."""
    from loginas.utils import login_as

    capture_message("before")
    login_as(account(name), request)
    capture_message("after")
    return HttpResponse()


def returning(request: HttpRequest) -> HttpResponse:
    """Be oneself again, between two reports."""
    from loginas.utils import restore_original_login

    capture_message("before")
    restore_original_login(request)
    capture_message("after")
    return HttpResponse()


urlpatterns = [
    path("switching/<question>", switching),
    path("switching-async/<question>", switching_async),
    path("leaving/<question>", leaving),
    path("lines", lines),
    path("fail", failing),
    path("become/<name>", becoming),
    path("return", returning),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    migrate()
    for name in ("ada", "bob"):
        log_in(name)
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=AUTHENTICATION):
        yield
    connections.close_all()


def users(recorder: RecordingClient) -> list[Any]:
    """Return the name and the impersonator that each report has; None for nobody."""
    found = [event.get("user") for event in recorder.events]
    return [user and (user["username"], user.get("impersonator")) for user in found]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    ("serve", "target"),
    [(serve_wsgi, "switching"), (serve_asgi, "switching"), (serve_asgi, "switching-async")],
    ids=["wsgi", "asgi", "async"],
)
def test_a_switch_of_users_is_followed(
    serve: Any, target: str, question: str, usercontext_recorder: RecordingClient
) -> None:
    """Whoever asked before, and how, the error names who is logged in by then."""
    serve(f"{target}/{question}", cookie=log_in("ada"))
    assert users(usercontext_recorder)[-1] == ("bob", None)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_a_logout_is_followed(
    serve: Any, question: str, usercontext_recorder: RecordingClient
) -> None:
    """Who has left is not named any more."""
    serve(f"leaving/{question}", cookie=log_in("ada"))
    assert users(usercontext_recorder)[-1] is None


def test_a_line_names_whom_django_has_found() -> None:
    """By default a line asks nobody, and names the user once the app has asked."""
    assert serve_wsgi("lines", cookie=log_in("ada")) == b"None ada 0"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_token_beside_a_session_is_followed(
    question: str, usercontext_recorder: RecordingClient
) -> None:
    """REST framework's token wins over the session that an earlier question has read."""
    pytest.importorskip("rest_framework")
    from rest_framework.authentication import TokenAuthentication
    from rest_framework.authtoken.models import Token
    from rest_framework.permissions import IsAuthenticated
    from rest_framework.views import APIView

    class Orders(APIView):
        authentication_classes = (TokenAuthentication,)
        permission_classes = (IsAuthenticated,)

        def get(self, _request: Any) -> None:
            raise KeyError

    def asking(get_response: Any) -> Any:
        def ask(request: Any) -> Any:
            _ = request.user.username
            QUESTIONS[question]()
            return get_response(request)

        return ask

    globals().update(asking=asking)
    urlpatterns[:1] = [path("orders", Orders.as_view()), urlpatterns[0]]
    token, _ = Token.objects.get_or_create(user=account("bob"))
    try:
        with override_settings(MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.asking"]):
            serve_wsgi("orders", cookie=log_in("ada"), authorization=f"Token {token.key}")
    finally:
        del urlpatterns[0]
    assert users(usercontext_recorder)[-1] == ("bob", None)


def staff(name: str) -> Client:
    """Return the browser of a superuser."""
    who = account(name)
    who.is_staff = who.is_superuser = True
    who.save()
    client = Client(raise_request_exception=False)
    client.force_login(who)
    return client


def test_loginas_names_who_acts(usercontext_recorder: RecordingClient) -> None:
    """In the request that takes a user over, in later ones, and no more after the return."""
    pytest.importorskip("loginas")
    client = staff("ada")
    ada = str(account("ada").pk)
    messages = "django.contrib.messages.middleware.MessageMiddleware"
    with override_settings(MIDDLEWARE=[*AUTHENTICATION, messages]):
        for target in ("/become/bob", "/fail", "/return", "/fail"):
            client.get(target)
    assert users(usercontext_recorder) == [
        ("ada", None),
        ("bob", ada),
        ("bob", ada),
        ("bob", ada),
        ("ada", None),
        ("ada", None),
    ]


def test_hijack_names_who_acts(usercontext_recorder: RecordingClient) -> None:
    """From the moment that a user is taken over until they are released."""
    pytest.importorskip("hijack")
    from hijack.signals import hijack_ended, hijack_started

    def report(**_: Any) -> None:
        capture_message("hijacked")

    for signal in (hijack_started, hijack_ended):
        signal.connect(report)
    client = staff("ada")
    ada, bob = str(account("ada").pk), account("bob").pk
    middlewares = [*AUTHENTICATION, "hijack.middleware.HijackUserMiddleware"]
    urlpatterns.append(path("hijack/", include("hijack.urls")))
    try:
        with override_settings(MIDDLEWARE=middlewares, HIJACK_INSERT_BEFORE=None):
            client.post("/hijack/acquire/", {"user_pk": bob})
            client.get("/fail")
            client.post("/hijack/release/")
            client.get("/fail")
    finally:
        urlpatterns.pop()
        for signal in (hijack_started, hijack_ended):
            signal.disconnect(report)
    assert users(usercontext_recorder) == [
        ("bob", ada),
        ("bob", ada),
        ("ada", None),
        ("ada", None),
    ]
