"""A shop in GraphQL, by Strawberry, with a user for every operation."""

import os

import strawberry
from starlette.requests import HTTPConnection
from strawberry.asgi import GraphQL

import usercontext
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.strawberry import UserContext

PRICES = {1: 12.5}


def user_of(request: HTTPConnection) -> dict[str, str] | None:
    """Return who sends a request; a shop of your own asks its session."""
    name = request.headers.get("x-user")
    return None if name is None else {"id": name}


@strawberry.type
class Query:
    """What can be asked."""

    @strawberry.field
    def price(self, article: int) -> float | None:
        """Return the price of an article; one that is not there fails."""
        return PRICES[article]


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
schema = strawberry.Schema(Query)
UserContext(schema)
app = UserContextMiddleware(GraphQL(schema), resolver=user_of)
