"""Django REST framework authenticates inside the view: its reports name who it found there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")
pytest.importorskip("rest_framework")

from tests.frameworks.django_project import (
    AUTHENTICATION,
    log_in,
    migrate,
    serve_asgi,
    serve_wsgi,
)

# isort: split
from django.contrib.auth.models import User
from django.db import connections
from django.http import Http404
from django.test import override_settings
from django.urls import path
from rest_framework import exceptions, permissions
from rest_framework.authentication import (
    SessionAuthentication,
    TokenAuthentication,
)
from rest_framework.authtoken.models import Token
from rest_framework.response import Response
from rest_framework.test import APIClient, APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from usercontext import capture_exception, capture_message, get_user
from usercontext.frameworks.django import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rest_framework.request import Request

    from usercontext.testing import RecordingClient


class Orders(APIView):
    """A view for programs with a token, and for browsers with a session."""

    # The first of them reads Django's user, who is anonymous where there is a token alone.
    authentication_classes = (SessionAuthentication, TokenAuthentication)
    permission_classes = (permissions.IsAuthenticated,)

    def get(self, request: Request, what: str) -> Response:
        """Fail in the way that the address asks for, or report something."""
        if what == "message":
            capture_message("hello")
            return Response({"user": get_user(request=request).username})
        raise {
            "fail": LookupError("no such thing"),
            "invalid": exceptions.ValidationError("wrong number"),
            "missing": Http404("no such order"),
        }[what]


class Reporting(Orders):
    """A view that answers for its own errors, and reports them."""

    def handle_exception(self, error: Exception) -> Response:
        """Report what is not an answer."""
        if isinstance(error, LookupError):
            capture_exception(error)
            return Response({"detail": "sorry"}, status=500)
        return super().handle_exception(error)


urlpatterns = [
    path("orders/<str:what>", Orders.as_view()),
    path("reporting/<str:what>", Reporting.as_view()),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    migrate()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=AUTHENTICATION):
        yield
    connections.close_all()


def token_of(name: str) -> str:
    """Return what a program sends that has somebody's token."""
    account, _ = User.objects.get_or_create(username=name, email=f"{name}@shop.example")
    token, _ = Token.objects.get_or_create(user=account)
    return f"Token {token.key}"


def names(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize("target", ["orders/fail", "orders/message", "reporting/fail"])
def test_who_has_a_token_is_named(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """Once each: what is raised again, what a view reports, and what it answers for itself."""
    serve(target, authorization=token_of("tom"))
    assert names(usercontext_recorder) == ["tom"]


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_who_has_a_session_is_named(serve: Any, usercontext_recorder: RecordingClient) -> None:
    """The same view names who has logged in with a browser."""
    serve("orders/fail", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


@pytest.mark.parametrize("target", ["orders/invalid", "orders/missing", "reporting/invalid"])
def test_an_answer_is_no_error(target: str, usercontext_recorder: RecordingClient) -> None:
    """What the exception handler makes a response of is not reported."""
    serve_wsgi(target, authorization=token_of("tom"))
    assert usercontext_recorder.events == []


def test_who_may_not_enter_is_not_reported(usercontext_recorder: RecordingClient) -> None:
    """A wrong token is a 401: an answer too."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Token of nobody")
    assert client.get("/orders/fail").status_code in {401, 403}
    assert usercontext_recorder.events == []


def early(get_response: Any) -> Any:
    """Look for the user before anybody has authenticated, as a log line may."""

    def middleware(request: Any) -> Any:
        assert get_user() is None
        return get_response(request)

    return middleware


@override_settings(MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.early"])
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_nobody_found_before_is_no_final_answer(
    serve: Any, usercontext_recorder: RecordingClient
) -> None:
    """Who has asked too early has not spoiled the report of an error."""
    serve("orders/fail", authorization=token_of("tom"))
    assert names(usercontext_recorder) == ["tom"]


@override_settings(MIDDLEWARE=AUTHENTICATION[:1])
def test_no_other_middleware_is_needed(usercontext_recorder: RecordingClient) -> None:
    """With tokens alone there is neither a session nor AuthenticationMiddleware."""
    serve_wsgi("orders/fail", authorization=token_of("tom"))
    serve_asgi("orders/fail", authorization=token_of("tom"))
    assert names(usercontext_recorder) == ["tom", "tom"]


def test_one_token_after_another(usercontext_recorder: RecordingClient) -> None:
    """Requests one after the other, in one thread, have each their own user."""
    for name in ("tom", "tim"):
        serve_wsgi("orders/fail", authorization=token_of(name))
    assert names(usercontext_recorder) == ["tom", "tim"]


def test_its_own_request_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """`get_user(request=...)` takes the request of Django REST framework."""
    assert serve_wsgi("orders/message", authorization=token_of("tom")) == b'{"user":"tom"}'


def test_who_is_forced_in_a_test_is_named(usercontext_recorder: RecordingClient) -> None:
    """`force_authenticate` is seen, as tests of views use it."""
    request = APIRequestFactory().get("/")
    force_authenticate(request, user=User(pk=9, username="zoe"))
    view = Orders.as_view()
    response = UserContextMiddleware(lambda request: view(request, what="message"))(request)
    assert response.data == {"user": "zoe"}
    assert names(usercontext_recorder) == ["zoe"]
