"""What every queue keeps: the same tests, for a worker that each module starts.

A module gives them a fixture `enqueue`, a function of a job's name and its label. Its jobs are
`look` (notes the user), `fail` (notes, and raises its label), `retry` (notes, and fails at its
first attempt), `hand_on` (notes, and enqueues `look` with `child` behind its label), `become`
(makes bob its user and hands on).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeAlias

import pytest

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from usercontext.wsgi import UserContextMiddleware

__all__ = ["Enqueue", "Promises", "label", "serve"]

Enqueue: TypeAlias = Callable[[str, str], object]

ADA, BOB = {"id": "ada"}, {"id": "bob"}
_numbers = count()
scenario = pytest.mark.scenario


@pytest.fixture
def label(request: pytest.FixtureRequest) -> str:
    """Return a name for what this test does, which no other test has."""
    return f"{request.module.__name__}.{request.node.name}.{next(_numbers)}"


def serve(user: dict[str, str] | None, function: Callable[[], object]) -> None:
    """Call a function in a request of somebody's."""

    def app(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
        function()
        start_response("200 OK", [])
        return []

    served = UserContextMiddleware(app, resolver=lambda _: user)
    list(served({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None))


class Promises:
    """The tests; a module's own class adds what its queue alone can do.

    Attributes:
        kind: the row of `docs/support.md` where it is not the parameter that names the worker.
        looks: the jobs that note their user, functions and coroutines.
    """

    kind: str | None = None
    looks: tuple[str, ...] = ("look",)

    @pytest.mark.parametrize(
        "user",
        [
            pytest.param(ADA, id="ada", marks=scenario("ada")),
            pytest.param(BOB, id="bob", marks=scenario("bob")),
            pytest.param(None, id="nobody", marks=scenario("nobody")),
        ],
    )
    def test_a_request_hands_its_user_on(
        self, enqueue: Enqueue, label: str, user: dict[str, str] | None
    ) -> None:
        """A job enqueued by a request of ada's is ada's, though its resolver was never asked."""
        serve(user, lambda: enqueue("look", label))
        assert_seen(seen(label), user["id"] if user else "nobody")

    @scenario("ada", "bob", "nobody")
    def test_users_alternate(self, enqueue: Enqueue, label: str) -> None:
        """Jobs that requests of ada, bob and nobody enqueue in turn have their own user each."""
        users = [ADA, BOB, None, ADA, None, BOB, None, None]
        for number, user in enumerate(users):
            serve(user, lambda number=number: enqueue("look", f"{label}.{number}"))
        expected = ["nobody" if user is None else user["id"] for user in users]
        assert_seen([seen(f"{label}.{number}") for number in range(len(users))], expected)

    @scenario("nobody")
    def test_outside_of_a_request_there_is_nobody(self, enqueue: Enqueue, label: str) -> None:
        """What a script enqueues is nobody's."""
        enqueue("look", label)
        assert_seen(seen(label), "nobody")

    @scenario("use_user")
    def test_use_user_counts(self, enqueue: Enqueue, label: str) -> None:
        """A job enqueued while ada acts as bob is bob's."""
        with usercontext.isolation_scope(user=ADA), usercontext.use_user(BOB):
            enqueue("look", label)
        assert_seen(seen(label), "bob")

    @scenario("fails")
    def test_an_error_is_reported_once_with_its_user(self, enqueue: Enqueue, label: str) -> None:
        """The unhandled error of a job names whoever enqueued it."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("fail", label)
        assert_seen(seen(label), "ada")
        assert_seen(reported(label), "ada")
        enqueue("look", f"{label}.after")
        assert_seen(seen(f"{label}.after"), "nobody")
        assert reports(label) == 0

    @scenario("reads", "logs", "reports")
    def test_a_message_names_the_user(self, enqueue: Enqueue, label: str) -> None:
        """What a job reports by itself, and what it logs, name whoever enqueued it."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("look", f"{label}.told")
        assert_seen([seen(f"{label}.told"), reported(f"{label}.told")], ["ada", "ada"])

    @scenario("fails")
    def test_an_error_of_nobodys_names_nobody(self, enqueue: Enqueue, label: str) -> None:
        """The error of a job of nobody's, after one of ada's, names nobody."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("look", f"{label}.before")
        enqueue("fail", label)
        assert_seen(reported(label), "nobody")

    @scenario("retried")
    def test_a_retry_has_the_same_user(self, enqueue: Enqueue, label: str) -> None:
        """The second attempt is of whoever enqueued the first."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["ada", "ada"])

    @scenario("a job")
    def test_a_job_hands_its_user_on(self, enqueue: Enqueue, label: str) -> None:
        """What a job enqueues is of the same user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("hand_on", label)
        assert_seen([seen(label), seen(f"{label}.child")], ["ada", "ada"])

    @scenario("a job")
    def test_an_explicit_user_wins(self, enqueue: Enqueue, label: str) -> None:
        """A job that says itself who its user is hands that user on, and to no later job."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("become", label)
        assert_seen([seen(label), seen(f"{label}.child")], ["bob", "bob"])
        enqueue("look", f"{label}.after")
        assert_seen(seen(f"{label}.after"), "nobody")

    @scenario("sync, async")
    def test_functions_and_coroutines(self, enqueue: Enqueue, label: str) -> None:
        """Each has its user to its end, and the next one has nobody."""
        for name in self.looks:
            serve(ADA, lambda name=name: enqueue(name, f"{label}.{name}"))
            enqueue(name, f"{label}.{name}.after")
        assert_seen([seen(f"{label}.{name}") for name in self.looks], ["ada"] * len(self.looks))
        after = [seen(f"{label}.{name}.after") for name in self.looks]
        assert_seen(after, ["nobody"] * len(self.looks))
