"""Ariadne: real servers, over HTTP, over WSGI, and over both protocols of websockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ariadne.asgi.handlers
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from ariadne import (
    MutationType,
    QueryType,
    SubscriptionType,
    graphql_sync,
    make_executable_schema,
)
from ariadne.asgi import GraphQL
from ariadne.wsgi import GraphQL as WsgiGraphQL
from graphql import GraphQLError
from werkzeug.test import Client

import usercontext
from tests.calls.graphql_promises import (
    Promises,
    ask,
    ask_by_websocket,
    ask_on_one_websocket,
)
from tests.calls.serving import (
    bearer,
    named,
    serving,
    start_later,
    token,
    until_cancelled,
    who,
)
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.ariadne import Operation, UserContext, reporting
from usercontext.exceptions import ConfigurationError
from usercontext.wsgi import UserContextMiddleware as WsgiMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from usercontext.testing import RecordingClient

TYPES = """
type Query {
    who: String!
    whoSlowly: String!
    boom: String
    refuse: String
    later: String!
    become(user: String!): String!
}
type Mutation { pay(user: String!): String! }
type Subscription { ticks(become: String): String!  fails: String!  endless: String! }
"""

query, mutation, subscription = QueryType(), MutationType(), SubscriptionType()


@query.field("who")
def resolve_who(*_: object) -> str:
    """Name the user."""
    return who()


@query.field("whoSlowly")
async def resolve_who_slowly(*_: object) -> str:
    """Name the user after others had their turn."""
    await asyncio.sleep(0)
    return who()


@query.field("boom")
def resolve_boom(*_: object) -> None:
    """Fail."""
    raise RuntimeError("kaboom")


@query.field("refuse")
def resolve_refuse(*_: object) -> None:
    """Answer with an error."""
    raise GraphQLError("sold out")


@query.field("later")
def resolve_later(*_: object) -> str:
    """Start what outlives the operation."""
    start_later()
    return who()


@query.field("become")
@mutation.field("pay")
def resolve_become(*_: object, user: str) -> str:
    """Set the user."""
    usercontext.set_user({"id": user})
    return who()


@subscription.source("ticks")
async def ticks(*_: object, become: str = "") -> AsyncIterator[str]:
    """Name the user again and again."""
    if become:
        usercontext.set_user({"id": become})
    for _number in range(3):
        await asyncio.sleep(0.01)
        yield who()


@subscription.source("fails")
async def fails(*_: object) -> AsyncIterator[str]:
    """Fail after a result."""
    yield who()
    raise RuntimeError("kaboom")


@subscription.source("endless")
async def endless(*_: object) -> AsyncIterator[str]:
    """Go on until nobody listens."""
    yield who()
    await until_cancelled()


@subscription.field("endless")
@subscription.field("ticks")
@subscription.field("fails")
def resolve_event(event: str, *_: object, **_arguments: object) -> str:
    """Tell what the source said, and who the user is here."""
    return event if event == who() else f"{event}, {who()}"


SCHEMA = make_executable_schema(TYPES, query, mutation, subscription)


def app_of(**options: Any) -> GraphQL:
    """Return an app that speaks the newer protocol on its websockets."""
    handler = ariadne.asgi.handlers.GraphQLTransportWSHandler()
    app = GraphQL(SCHEMA, websocket_handler=handler)
    UserContext(app, **options)
    return app


class TestAriadne(Promises):
    """What every library keeps."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls) -> Iterator[str]:
        with serving(UserContextMiddleware(app_of(), resolver=bearer)) as base:
            yield base

    def test_operations_that_are_no_subscriptions(self, base: str) -> None:
        """A mutation over a websocket that sets its user names nobody else."""
        for caller, asked, given in (
            ("ada", 'mutation { pay(user: "mallory") }', ["mallory"]),
            ("bob", "{ who }", ["bob"]),
            (None, "{ whoSlowly }", ["nobody"]),
        ):
            assert asyncio.run(ask_by_websocket(base, caller, asked)) == given


def find(operation: Operation) -> object:
    """Find who sends an operation by what `connection_init` brought."""
    assert "request" in operation.context
    return {"id": operation.connection_params["token"]}


def test_connection_init_names_who_it_is(recorder: RecordingClient) -> None:
    """A resolver may find the user in what the websocket's first message brought."""
    with serving(UserContextMiddleware(app_of(resolver=find), resolver=bearer)) as base:
        told = [
            asyncio.run(ask_by_websocket(base, "ada", asked, {"token": caller}))
            for asked, caller in (
                ("subscription { ticks }", "bob"),
                ("subscription { fails }", "eve"),
                ("{ who }", "bob"),
            )
        ]
    assert told == [["bob"] * 3, ["eve"], ["bob"]]
    assert named(recorder.events) == [("RuntimeError", "eve")]


def test_the_older_protocol(recorder: RecordingClient) -> None:
    """Operations are apart over `graphql-ws` as well, and may read `connection_init`."""
    asked = ['subscription { ticks(become: "mallory") }', "subscription { ticks }", "{ who }"]
    for options, user in (({}, "ada"), ({"resolver": find}, "bob")):
        app = GraphQL(SCHEMA)
        UserContext(app, **options)
        with serving(UserContextMiddleware(app, resolver=bearer)) as base:
            given = asyncio.run(
                ask_on_one_websocket(base, "ada", asked, {"token": "bob"}, protocol="graphql-ws")
            )
        assert given == [["mallory"] * 3, [user] * 3, [user]]


def test_the_name_stands_in_the_document(recorder: RecordingClient) -> None:
    """An operation is named in reports where the client sends its name in the document alone."""
    with serving(UserContextMiddleware(app_of(), resolver=bearer)) as base:
        ask(base, "ada", "query Shop { boom }")
    assert recorder.events[0]["contexts"]["call"]["name"] == "Shop"


def test_over_wsgi(recorder: RecordingClient) -> None:
    """An app of WSGI reports its errors with the user of the request."""
    app = WsgiGraphQL(SCHEMA)
    UserContext(app)
    client = Client(WsgiMiddleware(app, resolver=bearer))
    for caller in ("ada", None):
        client.post("/", json={"query": "query Mine { boom }"}, headers=token(caller))
    assert named(recorder.events) == [("RuntimeError", "ada"), ("RuntimeError", None)]
    assert recorder.events[0]["contexts"]["call"]["path"] == "boom"


def test_over_wsgi_by_itself(recorder: RecordingClient) -> None:
    """Without a middleware an operation has a user by the resolver of its `UserContext`."""
    app = WsgiGraphQL(SCHEMA)
    UserContext(app, resolver=lambda operation: {"id": operation.context["request"]["HTTP_NAME"]})
    Client(app).post("/", json={"query": "{ boom }"}, headers={"Name": "ada"})
    assert named(recorder.events) == [("RuntimeError", "ada")]


def test_a_view_of_its_own(recorder: RecordingClient) -> None:
    """Who calls `graphql_sync()` gives it the formatter that reports."""
    with usercontext.isolation_scope(user={"id": "ada"}):
        asked = {"query": "query Mine { boom, refuse }"}
        _, answer = graphql_sync(SCHEMA, asked, error_formatter=reporting())
    assert [error["message"] for error in answer["errors"]] == ["kaboom", "sold out"]
    assert named(recorder.events) == [("RuntimeError", "ada")]


def test_twice_is_refused() -> None:
    """One app has one `UserContext`."""
    app = app_of()
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(app)


def test_what_is_no_app_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="ariadne"):
        UserContext(SCHEMA)
