"""A small shop on Quart whose customers Quart-Auth remembers.

`request_user` only passes on the user of Quart-Auth. Some orders have no price, and so some
requests fail: each report names the customer whose request it was.
"""

import os
from collections.abc import AsyncIterator

from quart import Quart, abort, current_app, request, stream_with_context, websocket
from quart_auth import AuthUser, QuartAuth, login_required, login_user

import usercontext
from usercontext import RequestData
from usercontext.frameworks.quart import UserContext, request_user

CUSTOMERS = {"ada", "bob"}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Quart(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "not a secret: this is an example")
# A cookie over plain HTTP, so that curl can be used here: leave `cookie_secure` out.
QuartAuth(app, cookie_secure=False)
UserContext(app, resolver=request_user, request_data=RequestData(include_ip=True))


@app.post("/login")
async def login() -> dict[str, str]:
    """Remember a customer; a real shop would ask for a password too."""
    username = (await request.form)["username"]
    if username not in CUSTOMERS:
        abort(401)
    login_user(AuthUser(username))
    return {"welcome": username}


@app.get("/orders/<int:number>")
async def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@app.get("/stock/<int:number>")
def stock(number: int) -> dict[str, bool]:
    """Look something up in a worker thread, as every `def` view of Quart runs."""
    return {"in_stock": PRICES[number] < 50}


@app.post("/orders/<int:number>/invoice")
@login_required
async def invoice(number: int) -> tuple[dict[str, str], int]:
    """Accept at once, and write the invoice when the response has been sent.

    The task outlives its request, and sees a user who was known by then: so ask now.
    """
    usercontext.get_user()
    current_app.add_background_task(write_invoice, number)
    return {"status": "accepted"}, 202


async def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    PRICES[number] * 1.19


@app.get("/orders/<int:number>/export")
async def export(number: int) -> tuple[AsyncIterator[str], dict[str, str]]:
    """Stream some orders as lines, and go on after one that fails.

    Without `stream_with_context` Quart-Auth knows nobody when lines are made.
    """
    return stream_with_context(lines)(number), {"content-type": "text/csv"}


async def lines(last: int) -> AsyncIterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@app.websocket("/book")
async def order_book() -> None:
    """Answer each order number with its price, for as long as the customer stays."""
    while True:
        text = await websocket.receive()
        try:
            await websocket.send(str(PRICES[int(text)]))
        except (KeyError, ValueError):
            usercontext.capture_exception()
            await websocket.send("unknown")


if __name__ == "__main__":
    app.run(port=8000)
