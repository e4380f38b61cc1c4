"""Loaders of GraphQL: one for each request is right, one for several is said once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from ariadne import QueryType, make_executable_schema
from ariadne.asgi import GraphQL

from tests.calls.graphql_promises import ask, ask_on_one_websocket
from tests.calls.serving import bearer, serving, who
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.ariadne import UserContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

query = QueryType()


@query.field("price")
async def resolve_price(_: object, info: Any, of: int) -> str:
    """Ask the loader of the context."""
    return str(await info.context["loader"].load(of))


SCHEMA = make_executable_schema("type Query { price(of: Int!): String! }", query)


async def load(keys: list[int]) -> list[str]:
    """Load prices, which are of whoever asks."""
    await asyncio.sleep(0)
    return [f"{key} for {who()}" for key in keys]


def served(context_value: Callable[[Any, Any], dict[str, Any]]) -> AbstractContextManager[str]:
    """Serve the schema, with contexts as they are made here."""
    app = GraphQL(SCHEMA, context_value=context_value)
    UserContext(app)
    return serving(UserContextMiddleware(app, resolver=bearer))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what we warned of."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


@pytest.fixture(params=["strawberry.dataloader", "aiodataloader"])
def make_loader(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Make loaders, of one library or another."""
    module = pytest.importorskip(request.param)
    return lambda: module.DataLoader(load, cache=False)


def test_a_loader_for_each_request(make_loader: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A loader of one request, and of one websocket, loads as its user, and nothing is said."""
    with served(lambda request, _: {"request": request, "loader": make_loader()}) as base:
        for caller in ("ada", "bob"):
            answer = ask(base, caller, "{ a: price(of: 1), b: price(of: 2) }")
            assert answer["data"] == {"a": f"1 for {caller}", "b": f"2 for {caller}"}
    assert said(caplog) == []


def test_a_loader_for_each_websocket(make_loader: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Operations of one websocket may share a loader, as they share its context."""
    kept: dict[int, Any] = {}

    def context_of(request: Any, _: object) -> dict[str, Any]:
        loader = kept.setdefault(id(request), make_loader())
        return {"request": request, "loader": loader}

    with served(context_of) as base:
        asking = ask_on_one_websocket(
            base, "ada", ["{ price(of: 1) }", "{ price(of: 2) }"], protocol="graphql-ws"
        )
        assert asyncio.run(asking) == [["1 for ada"], ["2 for ada"]]
    assert said(caplog) == []


def test_a_loader_for_several_requests(make_loader: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One that requests share is said once, with what to write."""
    shared: list[Any] = []

    def context_of(request: Any, _: object) -> dict[str, Any]:
        if not shared:
            shared.append(make_loader())
        return {"request": request, "loader": shared[0]}

    with served(context_of) as base:
        for caller in ("ada", "bob", "eve"):
            ask(base, caller, "{ price(of: 1) }")
    assert len(said(caplog)) == 1
    assert "make one for each request" in said(caplog)[0]
