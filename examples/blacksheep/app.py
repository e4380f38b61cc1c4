"""A small shop on BlackSheep that tells its error reports who the customer is.

Customers send a key, and BlackSheep's own authentication knows whose it is; `request_user` only
passes that on. Some orders have no price, and so some requests fail: each report names the
customer whose request it was.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from blacksheep import Application, Request, Response, StreamedContent, get, json, post
from guardpost import AuthenticationHandler, Identity

import usercontext
from usercontext import RequestData
from usercontext.frameworks.blacksheep import UserContext, request_user

CUSTOMERS = {
    b"ada-key": {"sub": "1", "preferred_username": "ada", "email": "ada@shop.example"},
    b"bob-key": {"sub": "2", "preferred_username": "bob", "email": "bob@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}
tasks: set[asyncio.Task[None]] = set()


class KeyAuthentication(AuthenticationHandler):
    """Knows customers by their key."""

    async def authenticate(self, context: Request) -> Identity | None:
        """Say who makes a request."""
        key = context.get_first_header(b"x-api-key")
        claims: Any = CUSTOMERS.get(key or b"")
        context.user = Identity(claims, "key") if claims else Identity()
        return context.user


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Application()
app.use_authentication().add(KeyAuthentication())
UserContext(app, resolver=request_user, request_data=RequestData(include_ip=True))


@get("/orders/{number}")
async def order(number: int) -> Response:
    """Show an order; one without a price is the bug of this shop."""
    return json({"total": PRICES[number]})


@post("/orders/{number}/invoice")
async def invoice(number: int) -> Response:
    """Accept at once, and write the invoice in a task that outlives its request.

    The task sees a user who was known by then: so ask now.
    """
    usercontext.get_user()
    task = asyncio.create_task(write_invoice(number))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return json({"status": "accepted"}, status=202)


async def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@get("/orders/{number}/export")
async def export(number: int) -> Response:
    """Stream some orders as lines, and go on after one that fails."""

    async def lines() -> AsyncIterator[bytes]:
        for one in (1, 2, number):
            yield line(one)

    return Response(200, content=StreamedContent(b"text/csv", lines))


def line(number: int) -> bytes:
    """Return the line of an order."""
    try:
        return f"{number},{PRICES[number]}\n".encode()
    except KeyError:
        usercontext.capture_exception()
        return f"{number},unknown\n".encode()
