"""The example of two services: billing knows the customer from the shop, and from nobody else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import httpx
import pytest
import uvicorn

from usercontext.testing import RecordingClient


@contextmanager
def served(app: object) -> Iterator[str]:
    """Serve an app on a free port, and return its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def addresses(shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Run both services."""
    with served(shop.billing) as billing, served(shop.shop) as front:
        monkeypatch.setattr(shop, "BILLING", billing)
        yield front, billing


def test_billing_knows_the_customer(
    shop: ModuleType, addresses: tuple[str, str], usercontext_recorder: RecordingClient
) -> None:
    """Ada's order is ada's in billing, and nobody's is nobody's."""
    shop.usercontext.init(client=usercontext_recorder, carried=shop.carried)
    answer = httpx.get(f"{addresses[0]}/orders/1", headers={"x-user": "ada"}).json()
    assert answer == {"total": 12.5, "customer": "ada"}
    assert httpx.get(f"{addresses[0]}/orders/1").json()["customer"] is None


def test_nobody_else_is_believed(
    shop: ModuleType, addresses: tuple[str, str], usercontext_recorder: RecordingClient
) -> None:
    """A header that nobody has signed names nobody."""
    shop.usercontext.init(client=usercontext_recorder, carried=shop.carried)
    headers = {"usercontext-carried": "ada", "x-user": "ada"}
    assert httpx.get(f"{addresses[1]}/prices/1", headers=headers).json()["customer"] is None


def test_an_error_in_billing_names_the_customer(
    shop: ModuleType, usercontext_recorder: RecordingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of the service that failed is ada's."""
    shop.usercontext.init(client=usercontext_recorder, carried=shop.carried)
    with served(shop.billing) as billing, served(shop.shop) as front:
        monkeypatch.setattr(shop, "BILLING", billing)
        answer = httpx.get(f"{front}/orders/7", headers={"x-user": "ada"})
    # Both have stopped: what was to be reported has been.
    assert answer.status_code == 500
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "ada"}]
