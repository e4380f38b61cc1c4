"""isolation_scope and use_user: jobs and scripts have scopes of the clients of their own."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.serving import BOTH, serve
from usercontext import init, isolation_scope, set_user, use_user
from usercontext.clients import BaseClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1}


class Isolating(BaseClient):
    """Writes down its scopes as they open and close, and the users that it is handed."""

    def __init__(self, *, recording: bool = False) -> None:
        self.recording = recording
        self.calls: list[str] = []
        self.opened = 0

    @contextmanager
    def request_scope(self, *_: Any) -> Iterator[None]:
        self.opened += 1
        number = self.opened
        self.calls.append(f"open {number}")
        yield
        self.calls.append(f"close {number}")

    def is_recording(self) -> bool:
        return self.recording

    def set_user(self, user: Any, /) -> None:
        self.calls.append(f"user {user and user.id}")


@pytest.fixture
def client() -> Isolating:
    """Configure a client for the whole process, as a script does."""
    made = Isolating()
    init(None, clients=[made])
    return made


@pytest.mark.parametrize("block", [isolation_scope, use_user])
def test_a_job_has_a_scope_of_its_own(block: Any, client: Isolating) -> None:
    """It is opened at the start, handed the user, and closed at the end."""
    with block(ADA):
        set_user({"id": 2})
    assert client.calls == ["open 1", "user 1", "user 2", "close 1"]


def test_jobs_inside_of_jobs_each_have_their_own(client: Isolating) -> None:
    """The inner one is closed first; the outer one's user is not handed on again."""
    with isolation_scope(ADA), isolation_scope():
        set_user({"id": 2})
    assert client.calls == ["open 1", "user 1", "open 2", "user 2", "close 2", "close 1"]


def test_a_job_that_fails_closes_its_scope(client: Isolating) -> None:
    """The error passes, resolved and handed on before."""
    with pytest.raises(LookupError), isolation_scope(resolver=lambda _: ADA):
        raise LookupError
    assert client.calls == ["open 1", "user 1", "close 1"]


def test_tasks_each_have_their_own(client: Isolating) -> None:
    """Jobs in flight at once on one loop are closed in whatever order they end."""

    async def job(number: int, ends: asyncio.Event, next_ends: asyncio.Event) -> None:
        with isolation_scope({"id": number}):
            await ends.wait()
        next_ends.set()

    async def run() -> None:
        first, second, both = asyncio.Event(), asyncio.Event(), asyncio.Event()
        jobs = [job(1, second, both), job(2, first, second)]
        first.set()
        await asyncio.gather(*jobs)

    asyncio.run(run())
    assert sorted(client.calls[:4]) == ["open 1", "open 2", "user 1", "user 2"]
    assert client.calls[4:] == ["close 2", "close 1"]


def test_a_job_that_is_sent_anyway_is_resolved_at_its_end(client: Isolating) -> None:
    """There is no response to hand the user on at; a silent job asks nobody."""
    with isolation_scope(resolver=lambda _: ADA):
        pass
    client.recording = True
    with isolation_scope(resolver=lambda _: ADA):
        pass
    assert client.calls == ["open 1", "close 1", "open 2", "user 1", "close 2"]


@BOTH
def test_a_job_inside_a_request_leaves_the_requests_scope_alone(
    interface: str, client: Isolating
) -> None:
    """It opens and closes its own; a use_user block shares the request's."""

    def handler() -> None:
        with isolation_scope(ADA):
            pass
        with use_user(ADA):
            set_user({"id": 2})
        set_user({"id": 3})

    serve(interface, handler)
    assert client.calls == ["open 1", "open 2", "user 1", "close 2", "user 3", "close 1"]
