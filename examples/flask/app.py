"""A small shop on Flask that tells its error reports who the customer is.

Customers log in, and Flask's session remembers them. Some orders have no price, and so some
requests fail: each report names the customer whose request it was.
"""

import os
from collections.abc import Iterator
from threading import Thread
from typing import Any

from flask import Flask, Response, abort, request, session, stream_with_context
from werkzeug.wrappers import Request

import usercontext
from usercontext import RequestData, bind, use_user
from usercontext.frameworks.flask import UserContext

CUSTOMERS = {
    "ada": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob": {"id": 2, "username": "bob", "email": "bob@shop.example"},
    "cleo": {"id": 3, "username": "cleo", "email": "cleo@shop.example"},
    "dan": {"id": 4, "username": "dan", "email": "dan@shop.example"},
    "admin": {"id": 9, "username": "admin", "email": "admin@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


def customer_of(_request: Request) -> dict[str, Any] | None:
    """Find who makes a request: asked once a request, inside Flask's context, and if need be."""
    return CUSTOMERS.get(session.get("username", ""))


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "not a secret: this is an example")
UserContext(
    app,
    resolver=customer_of,
    # A proxy on this machine may say whose address it forwards; nobody else may.
    request_data=RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"]),
)


@app.post("/login")
def login() -> dict[str, str]:
    """Remember a customer; a real shop would ask for a password too."""
    username = request.form["username"]
    if username not in CUSTOMERS:
        abort(401)
    session["username"] = username
    return {"welcome": username}


@app.get("/orders/<int:number>")
def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@app.post("/orders/<int:number>/invoice")
def invoice(number: int) -> tuple[dict[str, str], int]:
    """Accept at once, and write the invoice in a thread, which `bind` gives this request's user."""
    Thread(target=bind(write_invoice), args=(number,)).start()
    return {"status": "accepted"}, 202


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@app.get("/orders/<int:number>/export")
def export(number: int) -> Response:
    """Stream some orders as lines, and go on after one that fails.

    Without `stream_with_context` the session, and so the customer, is gone when lines are made.
    """
    return Response(stream_with_context(lines(number)), mimetype="text/csv")


def lines(last: int) -> Iterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@app.post("/orders/<int:number>/photo")
def photo(number: int) -> dict[str, float | None]:
    """Take a photo of an order, of any size, also where the price is not known."""
    size = len(request.get_data())
    try:
        return {"bytes": size, "total": PRICES[number]}
    except KeyError:
        usercontext.capture_exception()
        return {"bytes": size, "total": None}


@app.get("/as/<username>/orders/<int:number>")
def as_customer(username: str, number: int) -> dict[str, float]:
    """Show an order as a customer sees it: for this block, reports name that customer."""
    if session.get("username") != "admin":
        abort(403)
    with use_user(CUSTOMERS[username]):
        return order(number)


if __name__ == "__main__":
    app.run(port=8000)
