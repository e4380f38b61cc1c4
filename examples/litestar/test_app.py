"""The Litestar example: every report names the customer whom authentication found."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from litestar.testing import TestClient

from usercontext.testing import RecordingClient

ADA = {"x-api-key": "ada-key"}


@pytest.fixture
def client(shop: ModuleType, usercontext_recorder: RecordingClient) -> Iterator[TestClient[Any]]:
    """A client of the app."""
    with TestClient(shop.app, raise_server_exceptions=False) as client:
        yield client


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/orders/7"), ("POST", "/orders/7/invoice"), ("GET", "/orders/7/export")],
)
def test_a_report_names_its_customer(
    client: TestClient[Any], usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Handlers, background tasks and streams report whom authentication found."""
    client.request(method, path, headers=ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_only_who_it_is_leaves(
    client: TestClient[Any], usercontext_recorder: RecordingClient
) -> None:
    """Of the shop's own model a report has id and username."""
    client.get("/orders/7", headers=ADA)
    assert usercontext_recorder.events[0]["user"]["id"] == "1"
    assert "password" not in json.dumps([event["user"] for event in usercontext_recorder.events])


def test_a_visitor_is_reported_as_nobody(
    client: TestClient[Any], usercontext_recorder: RecordingClient
) -> None:
    """Where nobody has to log in, nobody is named, also after somebody's request."""
    client.get("/orders/7", headers=ADA)
    client.get("/stock/8")
    assert reported(usercontext_recorder) == ["ada", None]


def test_who_is_refused_is_not_reported(
    client: TestClient[Any], usercontext_recorder: RecordingClient
) -> None:
    """A 401 is an answer, not an error."""
    assert client.get("/orders/1").status_code == 401
    assert usercontext_recorder.events == []


def test_the_page_of_a_500_knows_the_customer(client: TestClient[Any]) -> None:
    """The handler that apologises says to whom."""
    assert client.get("/orders/7", headers=ADA).json() == {"sorry": "ada"}


def test_a_websocket_names_its_customer(
    client: TestClient[Any], usercontext_recorder: RecordingClient
) -> None:
    """Every report of a connection names the customer who opened it."""
    with client.websocket_connect("/book", headers=ADA) as socket:
        for number in ("1", "7"):
            socket.send_text(number)
            socket.receive_text()
    assert reported(usercontext_recorder) == ["ada"]
