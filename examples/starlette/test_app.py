"""The Starlette example: every report names the customer whom Starlette authenticated."""

from collections.abc import Iterator
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from usercontext.testing import RecordingClient

ADA = ("ada", "lovelace")


@pytest.fixture
def client(shop: ModuleType, usercontext_recorder: RecordingClient) -> Iterator[TestClient]:
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
    client: TestClient, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Endpoints, background tasks and streams report whom AuthenticationMiddleware found."""
    client.request(method, path, auth=ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_a_visitor_is_reported_as_nobody(
    client: TestClient, usercontext_recorder: RecordingClient
) -> None:
    """Starlette's UnauthenticatedUser is nobody, also after somebody's request."""
    client.get("/orders/7", auth=ADA)
    client.get("/orders/8")
    assert reported(usercontext_recorder) == ["ada", None]


def test_a_websocket_names_its_customer(
    client: TestClient, usercontext_recorder: RecordingClient
) -> None:
    """Every report of a connection names the customer who opened it."""
    credentials = {"authorization": "Basic YWRhOmxvdmVsYWNl"}
    with client.websocket_connect("/book", headers=credentials) as socket:
        for number in ("1", "7"):
            socket.send_text(number)
            socket.receive_text()
    assert reported(usercontext_recorder) == ["ada"]
