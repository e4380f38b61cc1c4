"""Graphene: real servers, over HTTP and websockets, in Django, and by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import graphene
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from graphql import GraphQLError
from starlette_graphene3 import GraphQLApp

import usercontext
from tests.calls.graphql_promises import Promises, ask_by_websocket
from tests.calls.serving import bearer, named, serving, start_later, until_cancelled, who
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.graphene import Operation, UserContext
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from usercontext.testing import RecordingClient


class Query(graphene.ObjectType):
    """What the tests ask for."""

    who = graphene.String(required=True)
    who_slowly = graphene.String(required=True)
    boom = graphene.String()
    refuse = graphene.String()
    later = graphene.String()
    become = graphene.String(user=graphene.String(required=True))

    def resolve_who(self, info: Any) -> str:
        return who()

    async def resolve_who_slowly(self, info: Any) -> str:
        await asyncio.sleep(0)
        return who()

    def resolve_boom(self, info: Any) -> str:
        raise RuntimeError("kaboom")

    def resolve_refuse(self, info: Any) -> str:
        raise GraphQLError("sold out")

    def resolve_later(self, info: Any) -> str:
        start_later()
        return who()

    def resolve_become(self, info: Any, user: str) -> str:
        usercontext.set_user({"id": user})
        return who()


class Pay(graphene.Mutation):
    """A mutation that fails, into a field that may not be empty."""

    user = graphene.String(required=True)

    def mutate(self, info: Any) -> None:
        raise RuntimeError("kaboom")


class Mutation(graphene.ObjectType):
    """What changes something."""

    pay = graphene.Field(Pay, required=True)

    def resolve_pay(self, info: Any) -> None:
        raise RuntimeError("kaboom")


class Subscription(graphene.ObjectType):
    """What the tests subscribe to."""

    ticks = graphene.String(become=graphene.String(), required=True)
    fails = graphene.String()
    refuses = graphene.String()
    endless = graphene.String()

    async def subscribe_ticks(self, info: Any, become: str = "") -> AsyncIterator[str]:
        if become:
            usercontext.set_user({"id": become})
        for _ in range(3):
            await asyncio.sleep(0.01)
            yield who()

    def resolve_ticks(self: str, info: Any, become: str = "") -> str:
        return self if self == who() else f"{self}, {who()}"

    async def subscribe_fails(self, info: Any) -> AsyncIterator[str]:
        yield who()
        raise RuntimeError("kaboom")

    async def subscribe_endless(self, info: Any) -> AsyncIterator[str]:
        yield who()
        await until_cancelled()

    def resolve_endless(self: str, info: Any) -> str:
        return self

    async def subscribe_refuses(self, info: Any) -> AsyncIterator[str]:
        raise GraphQLError("sold out")
        yield


def schema_of(**options: Any) -> Any:
    """Return a schema with a `UserContext`."""
    schema = graphene.Schema(Query, mutation=Mutation, subscription=Subscription)
    UserContext(schema, **options)
    return schema


class TestGraphene(Promises):
    """What every library keeps."""

    protocol = "graphql-ws"

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls) -> Iterator[str]:
        with serving(UserContextMiddleware(GraphQLApp(schema_of()), resolver=bearer)) as base:
            yield base

    def test_operations_that_are_no_subscriptions(self, base: str) -> None:
        """A query over a websocket that sets its user names nobody else."""
        for caller, asked, given in (
            ("ada", '{ become(user: "mallory") }', ["mallory"]),
            ("bob", "{ who }", ["bob"]),
            (None, "{ whoSlowly }", ["nobody"]),
        ):
            assert self._ask_by_websocket(base, caller, asked) == given


def find(operation: Operation) -> object:
    """Find who sends an operation by what `connection_init` brought."""
    return {"id": operation.connection_params["token"]}


def test_connection_init_names_who_it_is(recorder: RecordingClient) -> None:
    """A resolver may find the user in what the websocket's first message brought."""
    app = GraphQLApp(schema_of(resolver=find))
    with serving(UserContextMiddleware(app, resolver=bearer)) as base:
        told = [
            asyncio.run(ask_by_websocket(base, "ada", asked, {"token": caller}, "graphql-ws"))
            for asked, caller in (
                ("subscription { ticks }", "bob"),
                ("subscription { fails }", "eve"),
                ("{ whoSlowly }", "bob"),
            )
        ]
    assert told == [["bob"] * 3, ["eve"], ["bob"]]
    assert named(recorder.events) == [("RuntimeError", "eve")]


def test_executed_without_a_server(recorder: RecordingClient) -> None:
    """A schema that is executed by itself reports its errors, too."""
    schema = schema_of()
    with usercontext.isolation_scope(user={"id": "ada"}):
        schema.execute("query Mine { boom }")
        asked = schema.execute_async("mutation { pay { user } }")
        assert asyncio.run(asked).data is None
    assert named(recorder.events) == [("RuntimeError", "ada")] * 2
    assert recorder.events[0]["contexts"]["call"]["name"] == "Mine"
    assert recorder.events[1]["contexts"]["call"]["path"] == "pay"


def find_eve(_: Operation) -> object:
    """Find the same user for every operation."""
    return {"id": "eve"}


async def subscribed_by_turns(schema: Any, *queries: str) -> list[str]:
    """Take the events of several subscriptions in one task, by turns."""
    streams = [await schema.subscribe(query) for query in queries]
    seen = []
    for _ in range(3):
        for stream in streams:
            result = await anext(stream)
            seen += result.data.values()
        seen.append(who())
    for stream in streams:
        await stream.aclose()
    return seen


def test_subscriptions_by_turns() -> None:
    """Subscriptions that one task serves by turns are apart, and leave nothing there."""
    queries = ['subscription { ticks(become: "bob") }', "subscription { ticks }"]
    with usercontext.isolation_scope(user={"id": "ada"}):
        seen = asyncio.run(subscribed_by_turns(schema_of(resolver=find_eve), *queries))
    assert seen == ["bob", "eve", "ada"] * 3


def test_a_refusal_by_a_source_is_an_answer(recorder: RecordingClient) -> None:
    """A `GraphQLError` that the source of a subscription raises is not reported."""

    async def subscribe() -> None:
        async for _ in await schema_of().subscribe("subscription { refuses }"):
            raise AssertionError

    with usercontext.isolation_scope(user={"id": "ada"}), pytest.raises(GraphQLError):
        asyncio.run(subscribe())
    assert recorder.events == []


def test_in_django(recorder: RecordingClient) -> None:
    """graphene-django's view reports the errors of resolvers, with the user of the request."""
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.test import RequestFactory

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, DATABASES={})
        django.setup()
    views = pytest.importorskip("graphene_django.views")  # it reads the settings
    view = views.GraphQLView.as_view(schema=schema_of())
    request = RequestFactory().post("/", {"query": "query Mine { boom }"}, "application/json")
    with usercontext.isolation_scope(user={"id": "ada"}):
        assert b"kaboom" in view(request).content
    assert named(recorder.events) == [("RuntimeError", "ada")]


def test_twice_is_refused() -> None:
    """One schema has one `UserContext`."""
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(schema_of())


def test_what_is_no_schema_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="Schema"):
        UserContext(object())
