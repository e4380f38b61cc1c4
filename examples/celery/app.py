"""A shop on Flask, whose invoices are written by Celery."""

import os

from celery import Celery
from flask import Flask, Request

import usercontext
from usercontext.carried import CarriedIdentity
from usercontext.frameworks.flask import UserContext as FlaskContext
from usercontext.jobs.celery import UserContext

PRICES = {1: 12.5}
BROKER = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
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

celery = Celery("shop", broker=BROKER)
celery.conf.beat_schedule = {"close": {"task": "app.close_books", "schedule": 86_400}}
UserContext(celery)

app = Flask(__name__)
FlaskContext(app, resolver=user_of)


@celery.task(name="app.write_invoice", autoretry_for=(ConnectionError,), max_retries=2)
def write_invoice(number: int) -> str:
    """Write the invoice of an order; an order without a price fails."""
    return f"{PRICES[number]:.2f}"


@celery.task(name="app.close_books")
def close_books() -> None:
    """Run by beat: nobody has asked for it."""
    raise RuntimeError("the books do not close")


@app.post("/orders/<int:number>/invoice")
def invoice(number: int) -> dict[str, str]:
    """Have an invoice written later."""
    return {"task": write_invoice.delay(number).id}
