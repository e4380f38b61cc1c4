"""The Flask example: every report names the customer whose request it was."""

import threading
from types import ModuleType

import pytest
from flask.testing import FlaskClient

from usercontext.testing import RecordingClient


@pytest.fixture
def client(shop: ModuleType, usercontext_recorder: RecordingClient) -> FlaskClient:
    """A client of the app, with cookies of its own."""
    client: FlaskClient = shop.app.test_client()
    return client


def log_in(client: FlaskClient, username: str) -> None:
    """Make the client a customer's."""
    assert client.post("/login", data={"username": username}).status_code == 200


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    for thread in threading.enumerate():
        if "write_invoice" in thread.name:
            thread.join()
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders/7"),
        ("POST", "/orders/7/invoice"),
        ("GET", "/orders/7/export"),
        ("POST", "/orders/7/photo"),
    ],
)
def test_a_report_names_its_customer(
    client: FlaskClient, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Views, threads started with `bind` and streams report the customer of the session."""
    log_in(client, "ada")
    client.open(path, method=method).get_data()
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(
    shop: ModuleType, client: FlaskClient, usercontext_recorder: RecordingClient
) -> None:
    """A request without a session is reported with its address only, also after somebody's."""
    log_in(client, "ada")
    client.get("/orders/7")
    shop.app.test_client().get("/orders/8")
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_an_admin_acts_as_a_customer(
    client: FlaskClient, usercontext_recorder: RecordingClient
) -> None:
    """Within `use_user` a report names the customer, although the admin made the request."""
    log_in(client, "admin")
    client.get("/as/bob/orders/7")
    assert reported(usercontext_recorder) == ["bob"]


def test_an_answer_without_failure_reports_nothing(
    client: FlaskClient, usercontext_recorder: RecordingClient
) -> None:
    """A request that succeeds sends no report, and its answer is its own."""
    assert client.get("/orders/1").get_json() == {"total": 12.5}
    assert usercontext_recorder.events == []
