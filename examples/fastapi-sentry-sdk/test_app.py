"""FastAPI with sentry-sdk: its reports name the customer, and the address that the ALB saw."""

import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

jwt = pytest.importorskip("jwt")
sentry_sdk = pytest.importorskip("sentry_sdk")
from starlette.testclient import TestClient  # noqa: E402

KEY = "a key of at least 32 bytes, only for trying"
ALB = ("10.0.3.4", 50000)
STRANGER = ("192.0.2.66", 50000)
# What a client has sent itself, and what the ALB appends.
FORWARDED = {"x-forwarded-for": "198.51.100.9, 203.0.113.7"}


def token_of(username: str, key: str = KEY) -> dict[str, str]:
    """Return the header of a customer's request."""
    claims = {"sub": "1", "preferred_username": username, "exp": time.time() + 60}
    claims |= {"iss": "https://id.shop.example", "aud": "shop"}
    return {"authorization": f"Bearer {jwt.encode(claims, key, 'HS256')}"}


@pytest.fixture
def sent(shop: ModuleType) -> Iterator[list[Any]]:
    """What sentry-sdk would send."""
    import usercontext
    from usercontext.clients.sentry_sdk import SentrySdkClient

    events: list[Any] = []
    sentry_sdk.init(
        "https://key@sentry.example/1",
        data_collection={"user_info": True},
        before_send=lambda event, hint: events.append(event),
    )
    usercontext.init(None, clients=[SentrySdkClient()])
    yield events
    sentry_sdk.init()
    usercontext.testing.reset()


def client_of(shop: ModuleType, peer: tuple[str, int] = ALB) -> TestClient:
    """A client whose connections come from an address."""
    return TestClient(shop.app, raise_server_exceptions=False, client=peer)


def test_a_report_names_the_customer(shop: ModuleType, sent: list[Any]) -> None:
    """The user of the token, with the address that the ALB appended."""
    client_of(shop).get("/orders/7", headers=token_of("ada") | FORWARDED)
    expected = {"id": "1", "username": "ada", "ip_address": "203.0.113.7"}
    assert [event["user"] for event in sent] == [expected]


def test_nobody_but_the_alb_is_believed(shop: ModuleType, sent: list[Any]) -> None:
    """Whoever reaches the app past the load balancer is reported by the address they come from."""
    client_of(shop, STRANGER).get("/orders/7", headers=token_of("ada") | FORWARDED)
    assert sent[0]["user"]["ip_address"] == STRANGER[0]


def ask_prices(shop: ModuleType, *numbers: str) -> list[str]:
    """Ask ada's prices over a websocket."""
    headers = token_of("ada") | FORWARDED
    with client_of(shop).websocket_connect("/prices", headers=headers) as socket:
        for number in numbers:
            socket.send_text(number)
        return [socket.receive_text() for _ in numbers]


def test_a_websocket_names_the_customer(shop: ModuleType, sent: list[Any]) -> None:
    """A price that is not there, asked for over a websocket."""
    assert ask_prices(shop, "1", "2") == ["12.5", "3.2"]
    with pytest.raises(KeyError):
        ask_prices(shop, "1", "7")
    assert sent[0]["user"]["username"] == "ada"


def test_a_forged_token_is_nobodys(shop: ModuleType, sent: list[Any]) -> None:
    """A token of another key is answered 401, and nothing is reported."""
    headers = token_of("ada", "another key of at least 32 bytes, to forge")
    assert client_of(shop).get("/orders/7", headers=headers).status_code == 401
    assert client_of(shop).get("/health").json() == "ok"
    assert sent == []
