"""django-ninja: who its authentication has found, named by a resolver of three lines."""

from __future__ import annotations

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
pytest.importorskip("ninja")  # which reads the settings when it is imported

from django.contrib.auth.models import User
from django.db import connections
from django.test import override_settings
from django.urls import path
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.security import HttpBearer, django_auth

from usercontext import capture_message
from usercontext.frameworks.django import request_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest

    from usercontext.testing import RecordingClient


class Bearer(HttpBearer):
    """Takes a user's name for a token."""

    def authenticate(self, request: HttpRequest, token: str) -> User:
        """Return the user; ninja puts it into `request.auth`."""
        return User(pk=7, username=token)


def find_user(request: HttpRequest) -> object:
    """Return who ninja, or else Django, says makes the request."""
    return getattr(request, "auth", None) or request_user(request)


api = NinjaAPI(auth=[Bearer(), django_auth])


@api.get("/message")
def message(request: HttpRequest) -> str:
    """Report something."""
    capture_message("hello")
    return "ok"


@api.get("/message-async")
async def message_async(request: HttpRequest) -> str:
    """Report something in an async operation."""
    capture_message("hello")
    return "ok"


@api.get("/fail")
def fail(request: HttpRequest) -> str:
    """Fail."""
    raise LookupError("no such thing")


@api.get("/refused")
def refused(request: HttpRequest) -> str:
    """Answer with an error of ninja's own."""
    raise HttpError(404, "no such thing")


urlpatterns = [path("api/", api.urls)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    migrate()
    options = {"USERCONTEXT": {"resolver": find_user}, "MIDDLEWARE": AUTHENTICATION}
    with override_settings(ROOT_URLCONF=__name__, **options):
        yield
    connections.close_all()


def names(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("serve", "target"),
    [(serve_wsgi, "message"), (serve_wsgi, "fail"), (serve_asgi, "message-async")],
)
def test_who_has_a_token_is_named(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """What the operation reports, and what it does not handle."""
    serve(f"api/{target}", authorization="Bearer tom")
    assert names(usercontext_recorder) == ["tom"]


def test_who_has_a_session_is_named(usercontext_recorder: RecordingClient) -> None:
    """Django's own authentication is asked where there is no token."""
    serve_wsgi("api/fail", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


def test_an_answer_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """What ninja makes a response of is not reported."""
    serve_wsgi("api/refused", authorization="Bearer tom")
    assert usercontext_recorder.events == []
