"""The Django REST framework example: every report names whose token it was."""

from collections.abc import Iterator
from types import ModuleType

import pytest
from django.db import connections
from django.test.utils import setup_test_environment, teardown_test_environment

from usercontext.testing import RecordingClient


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    """Keep the shop's database in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", ":memory:")
        yield


@pytest.fixture(scope="module", autouse=True)
def prepared(database: None, shop: ModuleType) -> Iterator[None]:
    """The app, with its customers."""
    setup_test_environment()
    shop.prepare()
    yield
    teardown_test_environment()
    connections.close_all()


def send(method: str, number: int, *, token: str | None = None) -> int:
    """Send one request, as a program with a token does or without one; return the status."""
    from rest_framework.test import APIClient  # once the app has configured Django

    client = APIClient(raise_request_exception=False)
    if token is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    status: int = getattr(client, method)(f"/orders/{number}").status_code
    return status


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(("method", "status"), [("get", 500), ("post", 202)])
def test_a_report_names_its_customer(
    method: str, status: int, usercontext_recorder: RecordingClient
) -> None:
    """What fails and what a view reports is the token's owner's."""
    assert send(method, 7, token="ada-s-token") == status
    assert send(method, 7, token="bob-s-token") == status
    assert reported(usercontext_recorder) == ["ada", "bob"]


def test_a_visitor_is_reported_as_nobody(usercontext_recorder: RecordingClient) -> None:
    """Without a token the report has the address alone, also after somebody's request."""
    send("get", 7, token="ada-s-token")
    send("get", 7)
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_an_answer_is_not_reported(usercontext_recorder: RecordingClient) -> None:
    """A wrong number and a wrong token are answered, and are not errors of the shop."""
    assert send("get", 0, token="ada-s-token") == 404
    assert send("get", 7, token="nobody-s-token") == 401
    assert usercontext_recorder.events == []
