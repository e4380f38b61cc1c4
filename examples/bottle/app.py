"""A small shop on Bottle that tells its error reports who the customer is.

Customers log in, and a signed cookie remembers them. Some orders have no price, and so some
requests fail: each report names the customer whose request it was.
"""

import os
from collections.abc import Iterator
from threading import Thread
from typing import Any

from bottle import Bottle, abort, request, response

import usercontext
from usercontext import RequestData, bind, use_user
from usercontext.frameworks.bottle import UserContext

CUSTOMERS = {
    "ada": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob": {"id": 2, "username": "bob", "email": "bob@shop.example"},
    "cleo": {"id": 3, "username": "cleo", "email": "cleo@shop.example"},
    "dan": {"id": 4, "username": "dan", "email": "dan@shop.example"},
    "admin": {"id": 9, "username": "admin", "email": "admin@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}
SECRET = os.environ.get("SECRET_KEY", "not a secret: this is an example")


def customer_of(request: Any) -> dict[str, Any] | None:
    """Find who makes a request: asked once a request, and only if a report needs to know."""
    return CUSTOMERS.get(request.get_cookie("username", secret=SECRET) or "")


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Bottle()
app.install(
    UserContext(
        resolver=customer_of,
        # A proxy on this machine may say whose address it forwards; nobody else may.
        request_data=RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"]),
    )
)


@app.post("/login")
def login() -> dict[str, str]:
    """Remember a customer; a real shop would ask for a password too."""
    username = request.forms["username"]
    if username not in CUSTOMERS:
        abort(401, "nobody here has that name")
    response.set_cookie("username", username, secret=SECRET, path="/", httponly=True)
    return {"welcome": username}


@app.get("/orders/<number:int>")
def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@app.post("/orders/<number:int>/invoice")
def invoice(number: int) -> dict[str, str]:
    """Accept at once, and write the invoice in a thread, which `bind` gives this request's user."""
    Thread(target=bind(write_invoice), args=(number,)).start()
    response.status = 202
    return {"status": "accepted"}


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@app.get("/orders/<number:int>/export")
def export(number: int) -> Iterator[str]:
    """Stream some orders as lines, and go on after one that fails."""
    response.content_type = "text/csv"
    return lines(number)


def lines(last: int) -> Iterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@app.post("/orders/<number:int>/photo")
def photo(number: int) -> dict[str, float | None]:
    """Take a photo of an order, of any size, also where the price is not known."""
    size = len(request.body.read())
    try:
        return {"bytes": size, "total": PRICES[number]}
    except KeyError:
        usercontext.capture_exception()
        return {"bytes": size, "total": None}


@app.get("/as/<username>/orders/<number:int>")
def as_customer(username: str, number: int) -> dict[str, float]:
    """Show an order as a customer sees it: for this block, reports name that customer."""
    if customer_of(request) != CUSTOMERS["admin"]:
        abort(403, "only the admin may do this")
    with use_user(CUSTOMERS[username]):
        return order(number)


if __name__ == "__main__":
    app.run(port=8000)
