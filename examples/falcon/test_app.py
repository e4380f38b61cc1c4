"""The Falcon example: every report names the customer whose request it was."""

import asyncio
import threading
from types import ModuleType

import falcon
import pytest
from falcon import testing

from usercontext.testing import RecordingClient


@pytest.fixture
def client(shop: ModuleType, usercontext_recorder: RecordingClient) -> testing.TestClient:
    """A client of the app."""
    return testing.TestClient(shop.application)


def log_in(client: testing.TestClient, username: str) -> dict[str, str]:
    """Return the headers of a customer's requests."""
    answer = client.simulate_post("/login", json={"username": username})
    return {"Authorization": f"Bearer {answer.json['token']}"}


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/orders/7"), ("GET", "/orders/7/export"), ("POST", "/orders/7/photo")],
)
def test_a_report_names_its_customer(
    client: testing.TestClient, usercontext_recorder: RecordingClient, method: str, path: str
) -> None:
    """Responders and streams report the customer of the token."""
    client.simulate_request(method, path, headers=log_in(client, "ada"))
    assert reported(usercontext_recorder) == ["ada"]


def test_a_thread_names_its_customer(
    shop: ModuleType,
    client: testing.TestClient,
    usercontext_recorder: RecordingClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work that `schedule_sync` gives to a thread reports the customer it was bound for."""
    written = threading.Event()
    write = shop.write_invoice
    monkeypatch.setattr(shop, "write_invoice", lambda number: (write(number), written.set()))
    client.simulate_post("/orders/7/invoice", headers=log_in(client, "ada"))
    assert written.wait(10)
    assert reported(usercontext_recorder) == ["ada"]


def test_a_websocket_names_its_customer(
    shop: ModuleType, client: testing.TestClient, usercontext_recorder: RecordingClient
) -> None:
    """A websocket that fails is reported with who had connected."""
    headers = log_in(client, "ada")

    async def talk() -> None:
        async with (
            testing.ASGIConductor(shop.application) as conductor,
            conductor.simulate_ws("/orders/7", headers=headers) as ws,
        ):
            with pytest.raises(falcon.WebSocketDisconnected):
                await ws.receive_text()

    asyncio.run(talk())
    assert reported(usercontext_recorder) == ["ada"]


def test_nobody_is_reported_as_nobody(
    client: testing.TestClient, usercontext_recorder: RecordingClient
) -> None:
    """A request without a token is nobody's, also after somebody's."""
    client.simulate_get("/orders/7", headers=log_in(client, "ada"))
    client.simulate_get("/orders/8")
    assert reported(usercontext_recorder) == ["ada", None]
    assert "user" not in usercontext_recorder.events[1]  # Falcon's client tells no address


def test_an_admin_acts_as_a_customer(
    client: testing.TestClient, usercontext_recorder: RecordingClient
) -> None:
    """Within `use_user` a report names the customer, although the admin made the request."""
    client.simulate_get("/as/bob/orders/7", headers=log_in(client, "admin"))
    assert reported(usercontext_recorder) == ["bob"]


def test_an_answer_without_failure_reports_nothing(
    client: testing.TestClient, usercontext_recorder: RecordingClient
) -> None:
    """A request that succeeds sends no report, and its answer is its own."""
    assert client.simulate_get("/orders/1").json == {"total": 12.5}
    assert client.simulate_get("/as/bob/orders/1").status_code == 403
    assert usercontext_recorder.events == []
