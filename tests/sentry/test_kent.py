"""Kent, a server of the protocol that shows an event as it came: what it is told of addresses."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

import usercontext
from tests.driver import asgi_request, plain_asgi_app, scope_of
from usercontext import RequestData, asgi, set_user

if TYPE_CHECKING:
    from collections.abc import Iterator

kent_app = pytest.importorskip("kent.app")


class Quiet(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def kent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve Kent; return what asks its application, beside its DSN."""
    app = kent_app.create_app()
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    asking = app.test_client()
    asking.dsn = f"http://key@127.0.0.1:{server.server_port}/1"
    try:
        yield asking
    finally:
        asking.post("/api/flush/")
        server.shutdown()
        thread.join()
        server.server_close()


AUTO = {"id": "ada", "ip_address": "{{auto}}"}


@pytest.mark.parametrize(
    ("told", "include_ip", "shown"),
    [
        (AUTO, True, {"id": "ada", "ip_address": "203.0.113.9"}),
        (AUTO, False, AUTO),
        ({"plan": "pro"}, True, {"plan": "pro", "ip_address": "203.0.113.9"}),
        ({"plan": "pro"}, False, None),
    ],
)
def test_auto_is_filled_in(told: Any, include_ip: bool, shown: Any, kent: Any) -> None:
    """With addresses the collected one is sent, which no server has to guess."""
    usercontext.init(kent.dsn, request_data=RequestData(include_ip=include_ip))

    def handler() -> None:
        set_user(told)
        usercontext.capture_message("hello")

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler)), scope_of())
    assert usercontext.flush(30.0)
    (listed,) = kent.get("/api/eventlist/").get_json()["events"]
    event = kent.get(f"/api/event/{listed['event_id']}").get_json()
    assert event["payload"]["body"].get("user") == shown
