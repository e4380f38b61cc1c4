"""Two services: the shop, and billing, which believes whom the shop says its customer is."""

import os

import httpx
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import usercontext
from usercontext.asgi import UserContextMiddleware
from usercontext.carried import CarriedIdentity
from usercontext.resolvers import CarriedUser
from usercontext.services.httpx import CarryingTransport

PRICES = {1: 12.5}
BILLING = os.environ.get("BILLING_URL", "http://127.0.0.1:8001")
# In production: USERCONTEXT_CARRIED_KEYS, and no key in the code.
KEY = os.environ.get("SHOP_KEY", "keep-this-secret-and-out-of-the-code")

carried = CarriedIdentity(keys=[KEY], audience="shop", max_age=60)
usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"), carried=carried)


def user_of(request: HTTPConnection) -> dict[str, str] | None:
    """Return who sends a request; a shop of your own asks its session."""
    name = request.headers.get("x-user")
    return None if name is None else {"id": name}


async def order(request: Request) -> Response:
    """Ask billing for the price of an order, in the name of the customer."""
    transport = CarryingTransport(hosts=[BILLING])
    async with httpx.AsyncClient(transport=transport, base_url=BILLING) as client:
        answer = await client.get(f"/prices/{request.path_params['number']}")
    return Response(answer.content, status_code=answer.status_code)


async def price(request: Request) -> JSONResponse:
    """Return a price, and whose order it is; an order without a price fails."""
    user = usercontext.get_user()
    total = PRICES[request.path_params["number"]]
    return JSONResponse({"total": total, "customer": user and user.id})


shop = UserContextMiddleware(
    Starlette(routes=[Route("/orders/{number:int}", order)]), resolver=user_of
)
billing = UserContextMiddleware(
    Starlette(routes=[Route("/prices/{number:int}", price)]),
    resolver=CarriedUser(carried, trusted_proxies=["127.0.0.1"]),
)
