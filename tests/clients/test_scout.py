"""Scout: the user in the context of transactions and errors."""

from __future__ import annotations

import asyncio
import gc
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING, Any
from weakref import ref

import flask
import pytest
from scout_apm.api import BackgroundTransaction, Context, Error, WebTransaction, ignore_transaction
from scout_apm.async_.starlette import ScoutMiddleware
from scout_apm.core.agent.socket import CoreAgentSocketThread
from scout_apm.core.config import scout_config
from scout_apm.core.context import scout_context_var
from scout_apm.core.error import ErrorMonitor
from scout_apm.core.error_service import ErrorServiceThread
from scout_apm.core.samplers.thread import SamplersThread
from scout_apm.core.tracked_request import TrackedRequest
from scout_apm.flask import ScoutApm

from tests.clients.serving import BOTH, serve
from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, bind, init, isolation_scope, set_user, wsgi
from usercontext.clients.scout import FIELDS, ScoutClient
from usercontext.core.record import current
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
ADAS = {"user_id": "1", "username": "ada", "user_email": "ada@shop.example"}
OWN = vars(TrackedRequest)["stop_span"], vars(ErrorMonitor)["send"]
WITH_IP = RequestData(include_ip=True)


class Sent:
    """The contexts of the transactions and errors that would be sent."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def keep(self, command: Any) -> None:
        """Keep what is for the agent, if it is a transaction."""
        commands = command.message().get("BatchCommand", {}).get("commands", ())
        tags = [one["TagRequest"] for one in commands if "TagRequest" in one]
        self.contexts.append({one["tag"]: one["value"] for one in tags})

    def keep_error(self, error: Any) -> None:
        """Keep what is for the error service."""
        self.contexts.append(error["context"])

    def named(self) -> list[Any]:
        """Return what the contexts said of the user, by Scout's names."""
        names = FIELDS.values()
        return [{n: one[n] for n in names if n in one} for one in self.contexts]

    def users(self) -> list[Any]:
        """Return and forget whom the contexts named, in our words."""
        seen = [
            {field: one[name] for field, name in FIELDS.items() if name in one} or None
            for one in self.contexts
        ]
        self.contexts.clear()
        return seen


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Configure Scout without its agent, and take back what our clients wrapped."""
    made = Sent()
    monkeypatch.setattr(CoreAgentSocketThread, "send", made.keep)
    monkeypatch.setattr(ErrorServiceThread, "send", made.keep_error)
    monkeypatch.setattr(SamplersThread, "ensure_started", lambda: None)
    monkeypatch.setattr("scout_apm.core.install", lambda **_: True)
    scout_config.set(monitor=True, errors_enabled=True)
    yield made
    unwrap()
    scout_context_var.set(None)
    scout_config.reset_all()


def unwrap() -> None:
    """Give Scout its own methods back."""
    TrackedRequest.stop_span, ErrorMonitor.send = OWN


def report() -> None:
    """Trace something."""
    with WebTransaction("cart"):
        pass


def test_it_conforms(sent: Sent) -> None:
    """Scout passes the suite that every client does."""

    def make_client() -> ScoutClient:
        unwrap()
        return ScoutClient()

    client_conformance(make_client, report=report, users=sent.users)


@BOTH
def test_a_transaction_names_the_user(interface: str, sent: Sent) -> None:
    """It asks as it ends, before the response starts."""
    serve(interface, report, ScoutClient(), resolver=lambda _: ADA, request_data=WITH_IP)
    assert sent.named() == [{**ADAS, "user_ip": "203.0.113.9"}]


@BOTH
def test_an_error_names_the_user(interface: str, sent: Sent) -> None:
    """It is sent before its transaction, and so asks itself."""

    def handler() -> None:
        with WebTransaction("cart"):
            Error.capture(LookupError("no such order"))

    serve(interface, handler, ScoutClient(), resolver=lambda _: ADA)
    assert sent.named() == [ADAS, ADAS]


@pytest.mark.parametrize(("data", "address"), [(WITH_IP, "203.0.113.9"), (RequestData(), None)])
def test_flask_with_its_own_extension(data: Any, address: str | None, sent: Sent) -> None:
    """An error that Flask answers names its user, and the address is not the header's."""
    app = flask.Flask("shop")
    ScoutApm(app)

    @app.get("/cart")
    def cart() -> str:
        raise LookupError("no such order")

    wrapped = wsgi.UserContextMiddleware(
        app.wsgi_app, resolver=lambda _: ADA, clients=[ScoutClient()], request_data=data
    )
    wsgi_request(wrapped, environ_of(x_forwarded_for="6.6.6.6"))
    expected = ADAS if address is None else {**ADAS, "user_ip": address}
    assert sent.named() == [expected, expected]


@pytest.mark.parametrize("is_outside", [False, True])
@pytest.mark.parametrize("does_fail", [False, True])
def test_its_asgi_middleware(is_outside: bool, does_fail: bool, sent: Sent) -> None:
    """Outside of ours the transaction ends when the request is over, and still has its user."""

    def handler() -> None:
        if does_fail:
            raise LookupError("no such order")

    app = plain_asgi_app(handler)
    app = app if is_outside else ScoutMiddleware(app)
    app = asgi.UserContextMiddleware(app, resolver=lambda _: ADA, clients=[ScoutClient()])
    app = ScoutMiddleware(app) if is_outside else app
    scope = {**scope_of(x_forwarded_for="6.6.6.6"), "endpoint": handler}
    if does_fail:
        with pytest.raises(LookupError):
            asgi_request(app, scope)
    else:
        asgi_request(app, scope)
    assert sent.named() == [ADAS]


def test_what_the_app_says_is_replaced(sent: Sent) -> None:
    """Nobody is nobody, what is stale is gone, and the app's own keys stay."""

    def handler() -> None:
        with WebTransaction("cart"):
            set_user(ADA)
            Context.add("user_id", "9")
            Context.add("cart", 3)
            set_user(None)

    serve("wsgi", handler, ScoutClient())
    assert (sent.named(), sent.contexts[0]["cart"]) == ([{}], 3)


def test_where_nobody_is_asked_the_app_is_right(sent: Sent) -> None:
    """Without a resolver, and without a user set, what the app told Scout stays."""

    def handler() -> None:
        with WebTransaction("cart"):
            Context.add("user_id", "9")
            Context.add("user_ip", "6.6.6.6")

    serve("wsgi", handler, ScoutClient())
    assert sent.named() == [{"user_id": "9"}]


def test_nothing_leaks_outside_of_a_transaction(sent: Sent) -> None:
    """What Scout is told there stays in its thread for whatever comes next."""

    def handler() -> None:
        Context.add("cart", 3)
        set_user(ADA)

    serve("wsgi", lambda: set_user(ADA), ScoutClient())
    assert scout_context_var.get(None) is None
    serve("wsgi", handler, ScoutClient())
    assert scout_context_var.get().tags == {"cart": 3}


def test_an_ignored_transaction_asks_nobody(sent: Sent) -> None:
    """What is not sent costs nothing."""
    calls: list[object] = []

    def handler() -> None:
        with WebTransaction("cart"):
            ignore_transaction()

    serve("wsgi", handler, ScoutClient(), resolver=calls.append)
    assert calls == []


def test_a_thread_names_the_user_of_the_transaction(sent: Sent) -> None:
    """Scout sees no transaction in a thread of ours: it is told as the transaction ends."""

    def handler() -> None:
        with WebTransaction("cart"):
            set_user({"id": 2})
            thread = Thread(target=bind(lambda: set_user(ADA)))
            thread.start()
            thread.join()

    serve("wsgi", handler, ScoutClient())
    assert sent.named() == [ADAS]


def test_the_transaction_around_the_request_names_the_user(sent: Sent) -> None:
    """It is sent after the request, whose user is asked for when the response starts."""
    with WebTransaction("cart"):
        Context.add("user_ip", "6.6.6.6")
        serve("wsgi", lambda: None, ScoutClient(), resolver=lambda _: ADA)
    assert sent.named() == [ADAS]


def test_nothing_is_kept_of_a_request_that_is_over(sent: Sent) -> None:
    """Neither its record nor its transaction."""
    records: list[Any] = []

    def handler() -> None:
        report()
        records.append(ref(current()))

    client = ScoutClient()
    serve("wsgi", handler, client, resolver=lambda _: ADA)
    gc.collect()
    assert [record() for record in records] == [None]


def test_nothing_is_kept_of_transactions_that_never_end(sent: Sent) -> None:
    """What an app forgets to end goes with the context that it was begun in."""
    gone: list[Any] = []

    def handler() -> None:
        TrackedRequest.instance().start_span("cart")
        set_user(ADA)
        gone.append(ref(current()))

    client = ScoutClient()
    for _ in range(3):
        copy_context().run(serve, "wsgi", handler, client)
    gc.collect()
    assert [record() for record in gone] == [None] * 3


def test_a_job_does_not_take_the_transaction_around_it(sent: Sent) -> None:
    """It may be one of many in there; its own transactions are its own."""
    init(None, clients=[ScoutClient()])
    with BackgroundTransaction("worker"), isolation_scope(user=ADA):
        pass
    with isolation_scope(user=ADA):
        report()
    assert sent.named() == [{}, ADAS]


def test_outside_of_requests_nothing_is_changed(sent: Sent) -> None:
    """A job's own context stays."""
    init(None, clients=[ScoutClient()])
    with BackgroundTransaction("worker"):
        Context.add("user_id", "worker")
    assert sent.named() == [{"user_id": "worker"}]


def test_a_transaction_that_tasks_share_is_named_once(sent: Sent) -> None:
    """Made in their parent, it is one for all requests, which is a mistake: none is told of two."""

    async def handler() -> None:
        set_user({"id": next(numbers)})
        await asyncio.sleep(0)

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[ScoutClient()])
        with WebTransaction("parent"):
            await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(5)))

    numbers = iter(range(5))
    asyncio.run(run())
    assert sent.named() == [{"user_id": "0"}]


def test_other_fields(sent: Sent) -> None:
    """A map of fields says what goes where; Scout's address goes without being mapped."""

    def handler() -> None:
        with WebTransaction("cart"):
            Context.add("user_ip", "6.6.6.6")

    client = ScoutClient(fields={"plan": "plan"})
    serve("wsgi", handler, client, resolver=lambda _: {"id": 1, "plan": "pro"})
    assert (sent.named(), sent.contexts[0]["plan"]) == ([{}], "pro")
