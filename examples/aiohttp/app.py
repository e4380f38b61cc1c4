"""A small shop on aiohttp that tells its error reports who the customer is.

Customers send a key. Some orders have no price, and so some requests fail: each report names the
customer whose request it was.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from aiohttp import web

import usercontext
from usercontext import RequestData
from usercontext.frameworks.aiohttp import setup

CUSTOMERS = {
    "ada-key": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob-key": {"id": 2, "username": "bob", "email": "bob@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

routes = web.RouteTableDef()
tasks: set[asyncio.Task[None]] = set()


def customer_of(request: web.Request) -> dict[str, object] | None:
    """Find who makes a request: asked once a request, and only if a report needs to know."""
    return CUSTOMERS.get(request.headers.get("x-api-key", ""))


@routes.get(r"/orders/{number:\d+}")
async def order(request: web.Request) -> web.Response:
    """Show an order; one without a price is the bug of this shop."""
    return web.json_response({"total": PRICES[int(request.match_info["number"])]})


@routes.post(r"/orders/{number:\d+}/invoice")
async def invoice(request: web.Request) -> web.Response:
    """Accept at once, and write the invoice in a task that outlives its request.

    The task sees a user who was known by then: so ask now.
    """
    usercontext.get_user()
    task = asyncio.create_task(write_invoice(int(request.match_info["number"])))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return web.json_response({"status": "accepted"}, status=202)


async def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@routes.get(r"/orders/{number:\d+}/export")
async def export(request: web.Request) -> web.Response:
    """Stream some orders as lines, and go on after one that fails."""
    body = lines(int(request.match_info["number"]))
    return web.Response(body=body, content_type="text/csv")


async def lines(last: int) -> AsyncIterator[bytes]:
    """Yield a line for each order, long after the handler has returned."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n".encode()
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n".encode()


@routes.get("/book")
async def order_book(request: web.Request) -> web.WebSocketResponse:
    """Answer each order number with its price, for as long as the customer stays."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        try:
            await socket.send_str(str(PRICES[int(message.data)]))
        except (KeyError, ValueError):
            usercontext.capture_exception()
            await socket.send_str("unknown")
    return socket


def create_app() -> web.Application:
    """Make the app."""
    app = web.Application()
    app.add_routes(routes)
    setup(app, resolver=customer_of, request_data=RequestData(include_ip=True))
    return app


if __name__ == "__main__":
    web.run_app(create_app(), port=8000)
