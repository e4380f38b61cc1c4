"""A reporting client that fails, waits or is misused harms no response and no other client."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.serving import BOTH, serve
from tests.driver import asgi_call, plain_asgi_app, plain_wsgi_app, scope_of, wsgi_request
from usercontext import asgi, bind, get_user, init, set_user, wsgi
from usercontext.clients import BaseClient
from usercontext.core import clients as client_calls
from usercontext.exceptions import ConfigurationError
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1}
BOB = {"id": 2}


class Blocking(BaseClient):
    """Waits in `set_user` for the one user, until it is let go."""

    def __init__(self) -> None:
        self.is_waiting = threading.Event()
        self.may_go_on = threading.Event()

    def set_user(self, user: Any, /) -> None:
        if user is not None and user.id == "1":
            self.is_waiting.set()
            assert self.may_go_on.wait(30)


@contextmanager
def running(function: Any) -> Iterator[None]:
    """Run a function in a thread, which ends with the block."""
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def test_a_client_that_blocks_delays_its_own_request_alone() -> None:
    """Other threads are served meanwhile, and the next client gets every user in the end."""
    client, recorder, answers = Blocking(), RecordingClient(), []

    def answer(user: Any) -> None:
        app = plain_wsgi_app(lambda: set_user(user))
        app = wsgi.UserContextMiddleware(app, clients=[client, recorder])
        answers.append((user["id"], wsgi_request(app)))

    with running(lambda: answer(ADA)):
        assert client.is_waiting.wait(30)
        answer(BOB)
        seen = list(recorder.users)
        client.may_go_on.set()
    assert seen == [{"id": "2"}]
    assert answers == [(2, b"ok"), (1, b"ok")]
    assert recorder.users == [{"id": "2"}, {"id": "1"}]


def test_the_user_is_known_while_a_client_blocks() -> None:
    """Nothing is locked: another thread of the same request is told without waiting."""
    client, peeks = Blocking(), []

    def handler() -> None:
        peeks.append(bind(get_user))
        set_user(ADA)

    with running(lambda: serve("wsgi", handler, client)):
        assert client.is_waiting.wait(30)
        user = peeks[0]()
        client.may_go_on.set()
    assert user is not None
    assert user.id == "1"


def test_a_thread_of_an_async_app_blocks_no_loop() -> None:
    """A handler that runs in a thread waits there; the loop serves the others."""
    client, recorder = Blocking(), RecordingClient()
    users = iter([ADA, BOB])

    async def handler() -> None:
        await asyncio.to_thread(set_user, next(users))

    async def run() -> list[Any]:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[client, recorder])
        slow = asyncio.create_task(asgi_call(app, scope_of()))
        await asyncio.to_thread(client.is_waiting.wait, 30)
        await asgi_call(app, scope_of())
        seen = list(recorder.users)
        client.may_go_on.set()
        await slow
        return seen

    assert asyncio.run(run()) == [{"id": "2"}]
    assert recorder.users == [{"id": "2"}, {"id": "1"}]


class Hooked(BaseClient):
    """A library whose hook waits for one report, until it is let go."""

    def __init__(self) -> None:
        self.get_user: Any = None
        self.is_waiting = threading.Event()
        self.may_go_on = threading.Event()
        self.named: list[Any] = []

    def setup(self, get_user: Any, /) -> None:
        self.get_user = get_user

    def report(self) -> None:
        """Report something."""
        user = self.get_user()
        if user["id"] == "1":
            self.is_waiting.set()
            assert self.may_go_on.wait(30)
        self.named.append(user["id"])


def test_a_hook_that_blocks_delays_its_own_report_alone() -> None:
    """While one request reports, others ask for their users and are told."""
    pytest.importorskip("werkzeug")
    client = Hooked()

    def answer(user: Any) -> None:
        serve("wsgi", client.report, client, resolver=lambda _: user)

    with running(lambda: answer(ADA)):
        assert client.is_waiting.wait(30)
        answer(BOB)
        named = list(client.named)
        client.may_go_on.set()
    assert (named, client.named) == (["2"], ["2", "1"])


@BOTH
def test_a_client_that_is_slow_is_said_once(
    interface: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for a second in a request learns which client it is."""
    seconds = [0.0]
    monkeypatch.setattr(client_calls, "monotonic", lambda: seconds[0])

    class Slow(BaseClient):
        def set_user(self, user: Any, /) -> None:
            seconds[0] += 1.5

    for _ in range(2):
        serve(interface, lambda: set_user(ADA), Slow(), RecordingClient())
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("reporting client test_a_client_that_is_slow_is_said_once")
    assert "Slow took more than a second in set_user()" in message


class Nonsense(BaseClient):
    """Answers what nobody asked for."""

    def request_scope(self, *_: Any) -> Any:
        return "no context manager"

    def is_recording(self) -> Any:
        return RecordingClient()


class Leaving(BaseClient):
    """Fails where its scope begins, or where it ends."""

    def __init__(self, where: str) -> None:
        self.where = where

    @contextmanager
    def request_scope(self, *_: Any) -> Iterator[None]:
        if self.where == "begin":
            raise LookupError(self.where)
        yield
        raise LookupError(self.where)


@BOTH
@pytest.mark.parametrize("client", [Nonsense(), Leaving("begin"), Leaving("end")])
def test_a_client_that_is_written_wrongly(
    interface: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is served, the others get its user, and it is logged once."""
    recorder = RecordingClient(recording=True)
    for _ in range(2):
        serve(interface, lambda: None, client, recorder, resolver=lambda _: ADA)
    assert recorder.users == [{"id": "1"}] * 2
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [f"reporting client {type(client).__name__} failed in request_scope()"]


class Stopped(BaseException):
    """Not an error of the client: a timeout of gevent, or Ctrl-C."""


def test_scopes_are_closed_whatever_passes() -> None:
    """The last one first; what passes is not swallowed."""
    closed: list[str] = []

    class Closing(BaseClient):
        def __init__(self, name: str, passes: type[BaseException] | None = None) -> None:
            self.name = name
            self.passes = passes

        @contextmanager
        def request_scope(self, *_: Any) -> Iterator[None]:
            yield
            closed.append(self.name)
            if self.passes:
                raise self.passes

    with pytest.raises(Stopped):
        serve("wsgi", lambda: None, Closing("1"), Closing("2", Stopped), Closing("3", LookupError))
    assert closed == ["3", "2", "1"]


@BOTH
def test_an_error_of_the_app_stays_the_apps(interface: str) -> None:
    """A client's scope cannot swallow it, nor put an error of its own in its place."""

    class Swallowing(BaseClient):
        def request_scope(self, *_: Any) -> Any:
            return self

        def __enter__(self) -> None:
            """Begin."""

        def __exit__(self, *_: object) -> bool:
            return True

    def fail() -> None:
        raise LookupError("no such order")

    with pytest.raises(LookupError, match="no such order"):
        serve(interface, fail, Swallowing(), Leaving("end"))


@pytest.mark.parametrize(
    ("client", "fix"),
    [(RecordingClient, r"write RecordingClient\(\)"), (object(), "has no method")],
)
def test_what_is_no_client_is_refused(client: Any, fix: str) -> None:
    """Where the app is put together, and not in its requests."""
    with pytest.raises(ConfigurationError, match=fix):
        init(None, clients=[client])
