"""The AWS Lambda example: a message that fails is reported with who sent it."""

import json
from types import ModuleType
from typing import Any

from usercontext.testing import RecordingClient


def message_of(number: int, article: int, user: str | None) -> dict[str, Any]:
    """Return a message as SQS hands it over."""
    told = {} if user is None else {"user": {"stringValue": user, "dataType": "String"}}
    body = json.dumps({"article": article})
    return {"messageId": str(number), "body": body, "messageAttributes": told}


def test_a_message_names_its_sender(
    shop: ModuleType, usercontext_recorder: RecordingClient
) -> None:
    """Messages of ada, of bob and of nobody in one batch are reported as such."""
    sent = [(1, "eve"), (7, "ada"), (8, "bob"), (9, None)]
    records = [message_of(number, *one) for number, one in enumerate(sent)]
    failed = shop.handler({"Records": records}, None)["batchItemFailures"]
    assert [one["itemIdentifier"] for one in failed] == ["1", "2", "3"]
    users = [(event.get("user") or {}).get("id") for event in usercontext_recorder.events]
    assert users == ["ada", "bob", None]
