"""Serving a request step by step: what is made late, and what ends early."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from usercontext import capture_message, get_user
from usercontext.core.lifecycle import RequestScope, Serving
from usercontext.core.record import RequestRecord, current
from usercontext.core.settings import Settings, default

if TYPE_CHECKING:
    from usercontext.testing import RecordingClient


def record_of(**options: Any) -> RequestRecord:
    """Make the record of a request."""
    return RequestRecord.of({}, Settings(**options).merged_under(default()))


def test_no_part_of_a_scope_is_made_before_it_is_read() -> None:
    """What a report does not need of a request costs nothing."""
    made: list[str] = []
    parts = {"path": lambda request: made.append("path") or request, "client": made.append}
    scope = RequestScope("/cart", parts)
    assert ("path" in scope, "headers" in scope, len(scope), list(scope)) == (
        True,
        False,
        2,
        ["path", "client"],
    )
    assert made == []
    assert (scope.get("path"), scope.get("headers")) == ("/cart", None)
    assert made == ["path"]


def test_an_answer_that_is_raised_completes_what_waits(
    usercontext_recorder: RecordingClient,
) -> None:
    """Reports that wait for an async resolver are completed also where no error is reported."""

    async def resolver(_request: object) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"id": 1}

    async def serve() -> None:
        async with Serving(record_of(resolver=resolver), lambda _error: False):
            capture_message("hello")
            raise LookupError("an answer")

    with pytest.raises(LookupError):
        asyncio.run(serve())
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "1"}]


def test_a_task_that_is_destroyed_awaits_nothing(usercontext_recorder: RecordingClient) -> None:
    """A request whose task ends with its loop sends what waits, without the user."""

    async def resolver(_request: object) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"id": 1}

    async def serve() -> None:
        async with Serving(record_of(resolver=resolver)):
            capture_message("hello")
            await asyncio.sleep(3600)

    async def destroy() -> None:
        request = serve()
        request.send(None)
        request.close()

    asyncio.run(destroy())
    assert [event.get("user") for event in usercontext_recorder.events] == [None]


def test_the_record_is_current_in_the_block_alone() -> None:
    """Before and after it nobody is the user, and the record is closed at its end."""
    record = record_of(resolver=lambda _request: {"id": 1})

    async def serve() -> str | None:
        async with Serving(record):
            user = get_user()
            return user and user.id

    assert asyncio.run(serve()) == "1"
    assert (current(), record.source) == (None, None)
    assert record.ended is not None
