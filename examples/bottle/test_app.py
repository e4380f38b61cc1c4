"""The Bottle example: every report names the customer whose request it was."""

import threading
from types import ModuleType
from typing import Any

import pytest
from webob import Request, Response

from usercontext.testing import RecordingClient


class Client:
    """Somebody with a browser that keeps cookies."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.cookies: dict[str, str] = {}

    def open(self, path: str, **options: Any) -> Response:
        """Send a request, as POST if it has a body."""
        request = Request.blank(path, remote_addr="127.0.0.1", **options)
        request.headers["Cookie"] = "; ".join(map("=".join, self.cookies.items()))
        response = request.get_response(self.app, catch_exc_info=True)
        assert response.body is not None  # read, also where it is streamed
        for cookie in response.headers.getall("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def log_in(self, username: str) -> None:
        """Become a customer."""
        assert self.open("/login", POST={"username": username}).status_int == 200


@pytest.fixture
def client(shop: ModuleType, usercontext_recorder: RecordingClient) -> Client:
    """A client of the app, with cookies of its own."""
    return Client(shop.app)


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    for thread in threading.enumerate():
        if "write_invoice" in thread.name:
            thread.join()
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/orders/7", None),
        ("/orders/7/invoice", b"-"),
        ("/orders/7/export", None),
        ("/orders/7/photo", b"a photo"),
    ],
)
def test_a_report_names_its_customer(
    client: Client, usercontext_recorder: RecordingClient, path: str, body: bytes | None
) -> None:
    """Callbacks, threads started with `bind` and streams report the customer of the cookie."""
    client.log_in("ada")
    client.open(path, **({} if body is None else {"POST": body}))
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(
    shop: ModuleType, client: Client, usercontext_recorder: RecordingClient
) -> None:
    """A request without a cookie is reported with its address only, also after somebody's."""
    client.log_in("ada")
    client.open("/orders/7")
    Client(shop.app).open("/orders/8")
    assert reported(usercontext_recorder) == ["ada", None]
    assert usercontext_recorder.events[1]["user"] == {"ip_address": "127.0.0.1"}


def test_an_admin_acts_as_a_customer(client: Client, usercontext_recorder: RecordingClient) -> None:
    """Within `use_user` a report names the customer, although the admin made the request."""
    client.log_in("admin")
    client.open("/as/bob/orders/7")
    assert reported(usercontext_recorder) == ["bob"]


def test_an_answer_without_failure_reports_nothing(
    client: Client, usercontext_recorder: RecordingClient
) -> None:
    """A request that succeeds, or is refused, sends no report, and its answer is its own."""
    assert client.open("/orders/1").json == {"total": 12.5}
    assert client.open("/login", POST={"username": "eve"}).status_int == 401
    assert usercontext_recorder.events == []
