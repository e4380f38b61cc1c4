"""The GraphQL example: a failing resolver is reported with its user, though it is answered 200."""

from types import ModuleType

import pytest

from usercontext.testing import RecordingClient

pytest.importorskip("strawberry.schema")
testclient = pytest.importorskip("starlette.testclient")


def test_an_operation_names_its_user(
    shop: ModuleType, usercontext_recorder: RecordingClient
) -> None:
    """Operations of ada, of bob and of nobody are reported as such, with their name and path."""
    client = testclient.TestClient(shop.app)
    asked = {"query": "query Price { price(article: 7) }", "operationName": "Price"}
    for headers in ({"x-user": "ada"}, {"x-user": "bob"}, {}):
        assert client.post("/", json=asked, headers=headers).status_code == 200
    events = usercontext_recorder.events
    assert [(event.get("user") or {}).get("id") for event in events] == ["ada", "bob", None]
    call = {"type": "graphql", "name": "Price", "path": "price"}
    assert events[0]["contexts"]["call"] == call
