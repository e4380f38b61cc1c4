"""Strawberry: real servers, over HTTP and over both protocols of websockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator  # noqa: TC003 - Strawberry reads annotations
from typing import TYPE_CHECKING, Any

import pytest
import strawberry
import uvicorn  # noqa: F401 - its absence skips these tests
from graphql import GraphQLError
from strawberry.asgi import GraphQL

import usercontext
from tests.calls.graphql_promises import Promises, ask_by_websocket
from tests.calls.serving import bearer, named, serving, start_later, until_cancelled, who
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.strawberry import Operation, UserContext
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient


@strawberry.type
class Query:
    """What the tests ask for."""

    @strawberry.field
    def who(self) -> str:
        return who()

    @strawberry.field
    async def whoSlowly(self) -> str:
        await asyncio.sleep(0)
        return who()

    @strawberry.field
    def boom(self) -> str | None:
        raise RuntimeError("kaboom")

    @strawberry.field
    async def refuse(self) -> str | None:
        raise GraphQLError("sold out")

    @strawberry.field
    def later(self) -> str:
        start_later()
        return who()

    @strawberry.field
    def become(self, user: str) -> str:
        usercontext.set_user({"id": user})
        return who()


@strawberry.type
class Subscription:
    """What the tests subscribe to."""

    @strawberry.subscription
    async def ticks(self, become: str = "") -> AsyncIterator[str]:
        if become:
            usercontext.set_user({"id": become})
        for _ in range(3):
            await asyncio.sleep(0.01)
            yield who()

    @strawberry.subscription
    async def endless(self) -> AsyncIterator[str]:
        yield who()
        await until_cancelled()

    @strawberry.subscription
    async def fails(self) -> AsyncIterator[str]:
        yield who()
        raise RuntimeError("kaboom")


def schema_of() -> Any:
    """Return a schema."""
    return strawberry.Schema(Query, subscription=Subscription)


class TestStrawberry(Promises):
    """What every library keeps."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls) -> Iterator[str]:
        schema = schema_of()
        UserContext(schema)
        with serving(UserContextMiddleware(GraphQL(schema), resolver=bearer)) as base:
            yield base


def test_connection_init_names_who_it_is(recorder: RecordingClient) -> None:
    """A resolver may find the user in what the websocket's first message brought."""

    def find(operation: Operation) -> object:
        return {"id": operation.connection_params["token"]}

    schema = schema_of()
    UserContext(schema, resolver=find)
    with serving(UserContextMiddleware(GraphQL(schema), resolver=bearer)) as base:
        told = [
            asyncio.run(ask_by_websocket(base, "ada", "subscription { ticks }", {"token": "bob"})),
            asyncio.run(ask_by_websocket(base, "ada", "subscription { fails }", {"token": "eve"})),
        ]
    assert told == [["bob"] * 3, ["eve"]]
    assert named(recorder.events) == [("RuntimeError", "eve")]


def test_executed_without_a_server(recorder: RecordingClient) -> None:
    """A schema that is executed by itself reports its errors, too."""
    schema = schema_of()
    UserContext(schema)
    with usercontext.isolation_scope(user={"id": "ada"}):
        schema.execute_sync("query Mine { boom }")
        assert asyncio.run(schema.execute("{ whoSlowly }")).data == {"whoSlowly": "ada"}
    assert named(recorder.events) == [("RuntimeError", "ada")]


def test_twice_is_refused() -> None:
    """One schema has one `UserContext`."""
    schema = schema_of()
    UserContext(schema)
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(schema)


def test_what_is_no_schema_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="Schema"):
        UserContext(object())
