"""A small shop on Sanic that tells its error reports who the customer is.

Customers send a key. Some orders have no price, and so some requests fail: each report names the
customer whose request it was.
"""

import os
from collections.abc import AsyncIterator

from sanic import Request, Sanic, Websocket, json
from sanic.response import HTTPResponse

import usercontext
from usercontext import RequestData
from usercontext.frameworks.sanic import UserContext

CUSTOMERS = {
    "ada-key": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob-key": {"id": 2, "username": "bob", "email": "bob@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


def customer_of(request: Request) -> dict[str, object] | None:
    """Find who makes a request: asked once a request, and only if a report needs to know."""
    return CUSTOMERS.get(request.headers.get("x-api-key", ""))


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Sanic("Shop")
UserContext(app, resolver=customer_of, request_data=RequestData(include_ip=True))


@app.get("/orders/<number:int>")
async def order(request: Request, number: int) -> HTTPResponse:
    """Show an order; one without a price is the bug of this shop."""
    return json({"total": PRICES[number]})


@app.post("/orders/<number:int>/invoice")
async def invoice(request: Request, number: int) -> HTTPResponse:
    """Accept at once, and write the invoice in a task that outlives its request.

    The task sees a user who was known by then: so ask now.
    """
    usercontext.get_user()
    request.app.add_task(write_invoice(number), name=f"invoice-{number}")
    return json({"status": "accepted"}, status=202)


async def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@app.get("/orders/<number:int>/export")
async def export(request: Request, number: int) -> None:
    """Stream some orders as lines, and go on after one that fails."""
    response = await request.respond(content_type="text/csv")
    async for line in lines(number):
        await response.send(line)


async def lines(last: int) -> AsyncIterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@app.websocket("/book")
async def order_book(request: Request, socket: Websocket) -> None:
    """Answer each order number with its price, for as long as the customer stays."""
    async for number in socket:
        try:
            await socket.send(str(PRICES[int(number)]))
        except (KeyError, ValueError):
            usercontext.capture_exception()
            await socket.send("unknown")


if __name__ == "__main__":
    app.run(port=8000)
