"""A small shop on Litestar whose customers an authentication middleware finds.

`request_user` only passes on what authentication found, and of that only who it is. Some orders
have no price, and so some requests fail: each report names the customer whose request it was.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request, Response, WebSocket, get, post, websocket_listener
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.params import FromPath
from litestar.response import Stream

import usercontext
from usercontext import RequestData
from usercontext.frameworks.litestar import UserContext, request_user


@dataclass
class Customer:
    """What the shop knows of a customer, most of which is nobody else's business."""

    id: int
    username: str
    password_hash: str


CUSTOMERS = {
    "ada-key": Customer(1, "ada", "the hash of ada's password"),
    "bob-key": Customer(2, "bob", "the hash of bob's password"),
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


class KeyAuthentication(AbstractAuthenticationMiddleware):
    """Finds the customer by a key, and refuses who has none."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        """Return who sends the request."""
        customer = CUSTOMERS.get(connection.headers.get("x-api-key", ""))
        if customer is None:
            raise NotAuthorizedException
        return AuthenticationResult(user=customer, auth=None)


@get("/orders/{number:int}")
async def order(number: FromPath[int]) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@get("/stock/{number:int}", sync_to_thread=True, exclude_from_auth=True)
def stock(number: FromPath[int]) -> dict[str, bool]:
    """Look something up in a worker thread, for visitors too."""
    return {"in_stock": PRICES[number] < 50}


@post("/orders/{number:int}/invoice", status_code=202)
async def invoice(number: FromPath[int]) -> Response[dict[str, str]]:
    """Accept at once, and write the invoice when the response has been sent."""
    task = BackgroundTask(write_invoice, number)
    return Response({"status": "accepted"}, background=task)


async def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@get("/orders/{number:int}/export")
async def export(number: FromPath[int]) -> Stream:
    """Stream some orders as lines, and go on after one that fails."""
    return Stream(lines(number), media_type="text/csv")


async def lines(last: int) -> AsyncIterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@websocket_listener("/book")
async def order_book(data: str, socket: WebSocket[Customer, Any, Any]) -> str:
    """Answer each order number with its price, for as long as the customer stays."""
    try:
        return str(PRICES[int(data)])
    except (KeyError, ValueError):
        usercontext.capture_exception()
        return f"unknown to {socket.user.username}"


def apologise(request: Request[Customer, Any, Any], _error: Exception) -> Response[Any]:
    """Answer for the bug of this shop, which is reported without this."""
    user = usercontext.get_user()
    return Response({"sorry": user.username if user else None}, status_code=500)


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Litestar(
    [order, stock, invoice, export, order_book],
    middleware=[KeyAuthentication],
    exception_handlers={500: apologise},
    plugins=[UserContext(resolver=request_user, request_data=RequestData(include_ip=True))],
)

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=8000)
