"""The suite for reporting clients: it passes a right one, and names what a wrong one breaks."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.clients import BaseClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tracker(BaseClient):
    """An error tracker that asks for the user when it reports."""

    def __init__(self) -> None:
        self.get_user: Any = None

    def setup(self, get_user: Any, /) -> None:
        self.get_user = get_user

    def report(self) -> Any:
        """Return the user that a report names."""
        return self.get_user()


class Library:
    """What a library would be: the client in use, and whom its reports named."""

    def __init__(self, kind: type[Tracker]) -> None:
        self.kind = kind
        self.named: list[Any] = []

    def make_client(self) -> Tracker:
        self.client = self.kind()
        return self.client

    def report(self) -> None:
        self.named.append(self.client.report())

    def users(self) -> list[Any]:
        named, self.named = self.named, []
        return named


def check(kind: type[Tracker], **options: Any) -> None:
    """Run the suite on a kind of client."""
    library = Library(kind)
    client_conformance(library.make_client, report=library.report, users=library.users, **options)


def test_a_client_that_asks_conforms() -> None:
    """Asking get_user() at each report is all that it takes."""
    check(Tracker)


class Peeking(Tracker):
    """Never asks a resolver."""

    def report(self) -> Any:
        return self.get_user(resolve=False)


def test_a_client_that_peeks_conforms_if_it_says_so() -> None:
    """resolves=False expects the users who are known."""
    check(Peeking, resolves=False)
    with pytest.raises(AssertionError, match="a report resolves the user"):
        check(Peeking)


class Tracing(BaseClient):
    """A tracer whose library opens a trace around each request, and is handed the user."""

    trace: ContextVar[dict[str, Any]] = ContextVar("trace")

    @contextmanager
    def around(self) -> Iterator[None]:
        """Open a trace."""
        token = self.trace.set({})
        yield
        self.trace.reset(token)

    def set_user(self, user: Any, /) -> None:
        self.trace.set({} if user is None else user.to_dict())

    def report(self) -> Any:
        """Return what the trace says of its user now."""
        return self.trace.get()


def test_what_a_library_opens_around_each_request_is_open() -> None:
    """A client that is handed the user conforms where its library traces each request."""
    tracer, named = Tracing(), []

    def users() -> list[Any]:
        taken = [user or None for user in named]
        named.clear()
        return taken

    client_conformance(
        lambda: tracer,
        report=lambda: named.append(tracer.report()),
        users=users,
        resolves=False,
        around=tracer.around,
    )


class Merging(Tracker):
    """Keeps what a new user does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}

    def report(self) -> Any:
        self.kept.update(self.get_user() or {})
        return dict(self.kept)


class Global(Tracker):
    """Keeps the pushed user for the whole process."""

    user: Any = None

    def set_user(self, user: Any, /) -> None:
        Global.user = user

    def report(self) -> Any:
        return None if Global.user is None else Global.user.to_dict()


class Failing(Tracker):
    """Fails outside of a request."""

    def set_user(self, user: Any, /) -> None:
        raise LookupError("no current request")


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (Merging, ["a new user replaces every field", "set_user(None) clears every field"]),
        (Global, ["a thread's next request is blank", "concurrent requests stay apart"]),
        (Failing, ["no call fails outside of a request: LookupError"]),
    ],
)
def test_every_broken_rule_is_named(kind: type[Tracker], rules: list[str]) -> None:
    """The message lists all that is wrong at once."""
    with pytest.raises(AssertionError) as caught:
        check(kind)
    assert [rule for rule in rules if rule not in str(caught.value)] == []
