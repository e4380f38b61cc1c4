"""A small shop on Flask, whose reports go to a file at first, and to a server of its own later.

Nothing in the app changes between the two: USERCONTEXT_DSN does. What the file has kept by then is
sent by one command.
"""

import os

from flask import Flask, session
from werkzeug.wrappers import Request

import usercontext
from usercontext.frameworks.flask import UserContext

CUSTOMERS = {"ada": {"id": 1, "username": "ada"}, "bob": {"id": 2, "username": "bob"}}
PRICES = {1: 12.50, 2: 3.20}


def customer_of(_request: Request) -> dict[str, object] | None:
    """Find who makes a request, in Flask's session."""
    return CUSTOMERS.get(session.get("username", ""))


usercontext.init(
    os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"),
    # With a server: keeps what it has not taken yet. A file needs none.
    outbox=os.environ.get("USERCONTEXT_OUTBOX"),
    release="shop@1.0",
)

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "not a secret: this is an example")
UserContext(app, resolver=customer_of)


@app.post("/login/<username>")
def login(username: str) -> dict[str, str]:
    """Remember a customer; a real shop would ask for a password too."""
    session["username"] = CUSTOMERS[username]["username"]
    return {"welcome": username}


@app.get("/orders/<int:number>")
def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}
