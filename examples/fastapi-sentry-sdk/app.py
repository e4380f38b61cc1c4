"""A shop on FastAPI behind a load balancer of AWS, which reports with sentry-sdk.

An identity provider signs the customers' tokens; orders come over HTTP, prices over a websocket.
sentry-sdk stays what it was: it is told the user of each request, and the address that the load
balancer saw.
"""

import os

import sentry_sdk
from fastapi import FastAPI, WebSocket

import usercontext
from usercontext import RequestData
from usercontext.clients.sentry_sdk import SentrySdkClient
from usercontext.frameworks.fastapi import RequiredUser, UserContext
from usercontext.resolvers import JwtClaims

PRICES = {1: 12.50, 2: 3.20}

sentry_sdk.init(
    os.environ.get("SENTRY_DSN"),
    # Of sentry-sdk: without it addresses are dropped. Before 2.75: send_default_pii=True.
    data_collection={"user_info": True},
)
usercontext.init(None, clients=[SentrySdkClient()])  # None: sentry-sdk reports, nobody else

app = FastAPI(title="Shop")
UserContext(
    app,
    resolver=JwtClaims(
        os.environ.get("TOKEN_KEY", "a key of at least 32 bytes, only for trying"),
        algorithms=["HS256"],
        issuer="https://id.shop.example",
        audience="shop",
    ),
    # The subnets of the load balancer: it appends the address that it saw, and we believe no
    # entry before it.
    request_data=RequestData(include_ip=True, trusted_proxies=["10.0.0.0/16"]),
)


@app.get("/health")
async def health() -> str:
    """Tell the load balancer that all is well, without asking who is there."""
    return "ok"


@app.get("/orders/{number}")
async def order(number: int, user: RequiredUser) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@app.websocket("/prices")
async def prices(websocket: WebSocket) -> None:
    """Tell prices, as they are asked for."""
    await websocket.accept()
    async for number in websocket.iter_text():
        await websocket.send_text(str(PRICES[int(number)]))
