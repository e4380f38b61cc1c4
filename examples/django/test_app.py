"""The Django example: every report names the customer whose request it was."""

import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import setup_test_environment, teardown_test_environment

from usercontext.testing import RecordingClient


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    """Keep the shop's database in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", ":memory:")
        yield


@pytest.fixture(scope="module")
def prepared(database: None, shop: ModuleType) -> Iterator[ModuleType]:
    """The app, with its customers."""
    setup_test_environment()
    shop.prepare()
    yield shop
    teardown_test_environment()
    connections.close_all()


@pytest.fixture
def client(prepared: ModuleType, usercontext_recorder: RecordingClient) -> Client:
    """A client of the app, with cookies of its own, that gets the error page as people do."""
    return Client(raise_request_exception=False)


def log_in(client: Client, username: str) -> None:
    """Make the client a customer's."""
    answer = client.post("/login", {"username": username, "password": f"{username}'s password"})
    assert answer.status_code == 200


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    for thread in threading.enumerate():
        if "write_invoice" in thread.name:
            thread.join()
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize("path", ["/orders/7", "/orders/7/invoice", "/orders/7/export"])
def test_a_report_names_its_customer(
    client: Client, usercontext_recorder: RecordingClient, path: str
) -> None:
    """Views, threads started with `bind` and streams report Django's own user."""
    log_in(client, "ada")
    b"".join(client.get(path))
    assert reported(usercontext_recorder) == ["ada"]


def test_a_visitor_is_reported_as_nobody(
    client: Client, usercontext_recorder: RecordingClient
) -> None:
    """Django's AnonymousUser is nobody, also after somebody's request."""
    log_in(client, "ada")
    client.get("/orders/7")
    Client(raise_request_exception=False).get("/orders/8")
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_only_identity_is_reported(client: Client, usercontext_recorder: RecordingClient) -> None:
    """Of Django's model nothing leaves but id, username and email."""
    log_in(client, "ada")
    client.get("/orders/7")
    assert usercontext_recorder.events[0]["user"] == {
        "id": "1",
        "username": "ada",
        "email": "ada@shop.example",
        "ip_address": "127.0.0.1",
    }


def test_an_admin_acts_as_a_customer(client: Client, usercontext_recorder: RecordingClient) -> None:
    """Within `use_user` a report names the customer, although the admin made the request."""
    log_in(client, "admin")
    client.get("/as/bob/orders/7")
    assert reported(usercontext_recorder) == ["bob"]
