"""A small shop on Tornado that tells its error reports who the customer is.

Customers send a key, and `get_current_user()` knows whose it is. Some orders have no price, and so
some requests fail: each report names the customer whose request it was.
"""

import asyncio
import os

from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

import usercontext
from usercontext import RequestData
from usercontext.frameworks.tornado import UserContext

CUSTOMERS = {
    "ada-key": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob-key": {"id": 2, "username": "bob", "email": "bob@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))


class ShopHandler(RequestHandler):
    """What all handlers know: it is asked once a request, and only if a report needs to know."""

    def get_current_user(self) -> dict[str, object] | None:
        """Find who makes a request."""
        return CUSTOMERS.get(self.request.headers.get("x-api-key", ""))


class Order(ShopHandler):
    """Shows an order."""

    def get(self, number: str) -> None:
        """Show it; one without a price is the bug of this shop."""
        self.write({"total": PRICES[int(number)]})


class Invoice(ShopHandler):
    """Takes orders of invoices."""

    def post(self, number: str) -> None:
        """Accept at once, and write the invoice when the response has been sent.

        The callback sees a user who was known by then: so ask now.
        """
        usercontext.get_user()
        IOLoop.current().add_callback(write_invoice, int(number))
        self.set_status(202)
        self.write({"status": "accepted"})


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


class Export(ShopHandler):
    """Streams orders."""

    async def get(self, last: str) -> None:
        """Stream some orders as lines, and go on after one that fails."""
        for number in (1, 2, int(last)):
            self.write(line(number))
            await self.flush()


def line(number: int) -> str:
    """Return the line of an order."""
    try:
        return f"{number},{PRICES[number]}\n"
    except KeyError:
        usercontext.capture_exception()
        return f"{number},unknown\n"


class OrderBook(WebSocketHandler, ShopHandler):
    """Answers each order number with its price, for as long as the customer stays."""

    async def on_message(self, message: str | bytes) -> None:
        """Answer a number."""
        try:
            await self.write_message(str(PRICES[int(message)]))
        except (KeyError, ValueError):
            usercontext.capture_exception()
            await self.write_message("unknown")


def create_app() -> Application:
    """Make the application."""
    app = Application(
        [
            (r"/orders/([0-9]+)", Order),
            (r"/orders/([0-9]+)/invoice", Invoice),
            (r"/orders/([0-9]+)/export", Export),
            (r"/book", OrderBook),
        ]
    )
    UserContext(app, request_data=RequestData(include_ip=True))
    return app


async def main() -> None:
    """Serve the application until the process is ended."""
    create_app().listen(8000)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
