"""A shop on Flask, whose invoices are written by RQ; the worker's settings are here too."""

import os

from flask import Flask, Request
from redis import Redis
from rq import Queue, Retry

import usercontext
from usercontext.carried import CarriedIdentity
from usercontext.frameworks.flask import UserContext as FlaskContext
from usercontext.jobs.rq import UserContext

PRICES = {1: 12.5}
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
# In production: USERCONTEXT_CARRIED_KEYS, and no key in the code.
KEY = os.environ.get("SHOP_KEY", "keep-this-secret-and-out-of-the-code")


def user_of(request: Request) -> dict[str, str] | None:
    """Return who sends a request; a shop of your own asks its session."""
    name = request.headers.get("x-user")
    return None if name is None else {"id": name}


usercontext.init(
    os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"),
    carried=CarriedIdentity(keys=[KEY], audience="shop"),
)
UserContext()

queue = Queue(connection=Redis.from_url(REDIS_URL))
app = Flask(__name__)
FlaskContext(app, resolver=user_of)


def write_invoice(number: int) -> str:
    """Write the invoice of an order; an order without a price fails."""
    return f"{PRICES[number]:.2f}"


@app.post("/orders/<int:number>/invoice")
def invoice(number: int) -> dict[str, str]:
    """Have an invoice written later, and once more if that fails."""
    return {"job": queue.enqueue("app.write_invoice", number, retry=Retry(max=1)).id}
