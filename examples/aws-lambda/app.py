"""A shop's queue in AWS Lambda, with a user for every message of a batch."""

import json
import os
from typing import Any

import usercontext
from usercontext.calls.aws_lambda import BatchUserContext

PRICES = {1: 12.5}


def sender_of(message: dict[str, Any]) -> dict[str, str] | None:
    """Return who sent a message; a shop of your own signs what it says of them."""
    name = message["messageAttributes"].get("user", {}).get("stringValue")
    return None if name is None else {"id": name}


def write_invoice(message: dict[str, Any]) -> str:
    """Write the invoice of an order; an order without a price fails."""
    return f"{PRICES[json.loads(message['body'])['article']]:.2f}"


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:////tmp/reports.db"))
handler = BatchUserContext(write_invoice, partial=True, resolver=sender_of)
