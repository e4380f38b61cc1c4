"""A small shop on Falcon, over ASGI, that tells its error reports who the customer is.

Customers log in and get a token; a middleware of the shop's own knows whose it is. Some orders
have no price, and so some requests fail: each report names the customer whose request it was.
"""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import falcon
import falcon.asgi

import usercontext
from usercontext import RequestData, bind, use_user
from usercontext.frameworks.falcon import request_user, wrap

CUSTOMERS = {
    "ada": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob": {"id": 2, "username": "bob", "email": "bob@shop.example"},
    "cleo": {"id": 3, "username": "cleo", "email": "cleo@shop.example"},
    "dan": {"id": 4, "username": "dan", "email": "dan@shop.example"},
    "admin": {"id": 9, "username": "admin", "email": "admin@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}
TOKENS: dict[str, str] = {}


class Authentication:
    """Leaves the customer, or None, where Falcon keeps what belongs to a request."""

    async def process_request(self, req: Any, resp: Any) -> None:
        """Find whose token it is that comes with a request."""
        token = (req.auth or "").removeprefix("Bearer ")
        req.context.user = CUSTOMERS.get(TOKENS.get(token, ""))

    async def process_request_ws(self, req: Any, ws: Any) -> None:
        """Do the same for a websocket."""
        await self.process_request(req, None)


class Login:
    """Gives a customer a token; a real shop would ask for a password too."""

    async def on_post(self, req: Any, resp: Any) -> None:
        """Log in."""
        username = (await req.get_media())["username"]
        if username not in CUSTOMERS:
            raise falcon.HTTPUnauthorized
        token = secrets.token_urlsafe(16)
        TOKENS[token] = username
        resp.media = {"token": token}


class Order:
    """An order; one without a price is the bug of this shop."""

    async def on_get(self, req: Any, resp: Any, number: int) -> None:
        """Show what it costs."""
        resp.media = {"total": PRICES[number]}

    async def on_websocket(self, req: Any, ws: Any, number: int) -> None:
        """Tell what it costs, and hang up."""
        await ws.accept()
        await ws.send_media({"total": PRICES[number]})


class Invoice:
    """The invoice of an order, which a thread writes after the response."""

    async def on_post(self, req: Any, resp: Any, number: int) -> None:
        """Accept at once; `bind` gives the thread this request's user."""
        resp.schedule_sync(bind(lambda: write_invoice(number)))
        resp.media = {"status": "accepted"}
        resp.status = 202


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


class Export:
    """Orders as lines of text."""

    async def on_get(self, req: Any, resp: Any, number: int) -> None:
        """Stream some orders, and go on after one that fails."""
        resp.content_type = "text/csv"
        resp.stream = lines(number)


async def lines(last: int) -> AsyncIterator[bytes]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n".encode()
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n".encode()


class Photo:
    """The photo of an order."""

    async def on_post(self, req: Any, resp: Any, number: int) -> None:
        """Take one of any size, also where the price is not known."""
        size = len(await req.stream.read())
        resp.media = {"bytes": size, "total": None}
        try:
            resp.media["total"] = PRICES[number]
        except KeyError:
            usercontext.capture_exception()


class AsCustomer:
    """What a customer sees, shown to the admin."""

    async def on_get(self, req: Any, resp: Any, username: str, number: int) -> None:
        """Show an order: for this block, reports name that customer."""
        if req.context.user != CUSTOMERS["admin"]:
            raise falcon.HTTPForbidden
        with use_user(CUSTOMERS[username]):
            await Order().on_get(req, resp, number)


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = falcon.asgi.App(middleware=[Authentication()])
app.add_route("/login", Login())
app.add_route("/orders/{number:int}", Order())
app.add_route("/orders/{number:int}/invoice", Invoice())
app.add_route("/orders/{number:int}/export", Export())
app.add_route("/orders/{number:int}/photo", Photo())
app.add_route("/as/{username}/orders/{number:int}", AsCustomer())

# What servers serve: the app with its users.
application = wrap(
    app,
    resolver=request_user,
    # A proxy on this machine may say whose address it forwards; nobody else may.
    request_data=RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"]),
)
