"""The Socket.IO example: a failing event is reported with who has connected."""

import threading
from socketserver import ThreadingMixIn
from types import ModuleType
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

pytest.importorskip("socketio.server")
pytest.importorskip("requests.adapters")
import socketio

from usercontext.testing import RecordingClient


class Threads(ThreadingMixIn, WSGIServer):
    """A thread for each request: the client polls while it sends."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Handles requests without a word."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_event_names_its_client(shop: ModuleType, usercontext_recorder: RecordingClient) -> None:
    """Events of ada and of nobody are reported as such."""
    with make_server("127.0.0.1", 0, shop.app, Threads, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for auth in ({"user": "ada"}, None):
            with socketio.SimpleClient() as client:
                client.connect(
                    f"http://127.0.0.1:{server.server_port}", auth=auth, transports=["polling"]
                )
                assert client.call("price", 1, timeout=10) == "12.50"
                with pytest.raises(socketio.exceptions.TimeoutError):
                    client.call("price", 7, timeout=0.2)
        server.shutdown()
        thread.join(10)
    users = [(event.get("user") or {}).get("id") for event in usercontext_recorder.events]
    assert users == ["ada", None]
