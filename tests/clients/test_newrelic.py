"""New Relic: the transaction of the request, with its own wrappers outside of ours and inside."""

from __future__ import annotations

from threading import Thread
from typing import Any

import newrelic.agent
import pytest
from newrelic.api.application import Application

from tests.clients.serving import BOTH
from tests.driver import (
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, bind, init, isolation_scope, set_user, wsgi
from usercontext.clients.newrelic import FIELDS, NewrelicClient
from usercontext.testing import client_conformance

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "name": "Ada Lovelace"}
ADAS = {
    "enduser.id": "1",
    "user.name": "ada",
    "user.email": "ada@shop.example",
    "user.full_name": "Ada Lovelace",
}
OURS = ("enduser.id", *FIELDS.values())
PLACES = pytest.mark.parametrize("place", ["outside", "inside"])


@pytest.fixture
def application(newrelic_application: Any) -> Any:
    """Return the agent's application."""
    return newrelic_application


@pytest.fixture
def nodes(application: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep the transactions that have ended."""
    kept: list[Any] = []
    monkeypatch.setattr(Application, "record_transaction", lambda _, node: kept.append(node))
    return kept


def user_of(transaction: Any) -> dict[str, Any]:
    """Return what a transaction, be it open or ended, says of its user."""
    said = [*transaction.agent_attributes, *transaction.user_attributes]
    return {one.name: one.value for one in said if one.name in OURS}


def test_it_conforms(application: Any, nodes: list[Any]) -> None:
    """A transaction is told of its user, and forgets the one before."""
    seen: list[Any] = []
    names = {"enduser.id": "id", "user.name": "username", "user.email": "email"}
    names["client.address"] = "ip_address"

    def report() -> None:
        said = user_of(newrelic.agent.current_transaction())
        seen.append({ours: said[name] for name, ours in names.items() if name in said} or None)

    def users() -> list[Any]:
        taken = seen.copy()
        seen.clear()
        return taken

    client_conformance(
        NewrelicClient,
        report=report,
        users=users,
        resolves=False,
        around=lambda: newrelic.agent.BackgroundTask(application, "request"),
    )


def serve(interface: str, place: str, handler: Any, **options: Any) -> None:
    """Serve a request with New Relic's wrapper in its place."""
    over_asgi = interface == "asgi"
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    wrapper: Any = (
        newrelic.agent.ASGIApplicationWrapper
        if over_asgi
        else newrelic.agent.WSGIApplicationWrapper
    )
    options = {"clients": [NewrelicClient()], **options}
    if place == "inside":
        app = ours(wrapper(app, application="shop"), **options)
    else:
        app = wrapper(ours(app, **options), application="shop")
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for="6.6.6.6"))
    else:
        wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))


@BOTH
@PLACES
def test_the_transaction_names_the_user(interface: str, place: str, nodes: list[Any]) -> None:
    """It is sent anyway, so its user is resolved when the response starts."""
    serve(interface, place, lambda: None, resolver=lambda _: ADA)
    (node,) = nodes
    assert user_of(node) == ADAS


@BOTH
def test_an_unhandled_error_names_the_user(interface: str, nodes: list[Any]) -> None:
    """No response starts: the resolver is asked before the error leaves us."""
    with pytest.raises(ZeroDivisionError):
        serve(interface, "outside", lambda: 1 / 0, resolver=lambda _: ADA)
    (node,) = nodes
    assert node.errors
    assert user_of(node) == ADAS


@BOTH
@PLACES
def test_an_error_names_a_user_who_was_set(interface: str, place: str, nodes: list[Any]) -> None:
    """Wherever the wrapper is, the transaction was told at once."""

    def handler() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        serve(interface, place, handler)
    assert user_of(nodes[0]) == ADAS


@BOTH
@PLACES
def test_nothing_of_the_first_user_stays(interface: str, place: str, nodes: list[Any]) -> None:
    """set_user_id(None) would do nothing: what nobody has is taken out."""
    seen: list[Any] = []

    def handler() -> None:
        newrelic.agent.set_user_id("9")
        for user in (ADA, {"id": 2}, {"email": "eve@shop.example"}, None):
            set_user(user)
            seen.append(user_of(newrelic.agent.current_transaction()))

    serve(interface, place, handler)
    eve = {"enduser.id": "eve@shop.example", "user.email": "eve@shop.example"}
    assert seen == [ADAS, {"enduser.id": "2"}, eve, {}]
    assert user_of(nodes[0]) == {}


def test_a_full_transaction_keeps_nothing_of_the_first_user(
    nodes: list[Any],
) -> None:
    """New Relic takes 128 custom attributes, and then no new value of an old one either."""

    def handler() -> None:
        set_user({"id": 1, "username": "ada"})
        for number in range(200):
            newrelic.agent.add_custom_attribute(f"n{number}", number)
        set_user({"id": 2, "username": "eve"})

    serve("wsgi", "outside", handler)
    assert user_of(nodes[0]) == {"enduser.id": "2", "user.name": "eve"}


@BOTH
@PLACES
def test_an_ignored_transaction_is_not_resolved(
    interface: str, place: str, nodes: list[Any]
) -> None:
    """What is not sent asks nobody."""
    calls: list[object] = []
    handler = newrelic.agent.ignore_transaction
    serve(interface, place, handler, resolver=calls.append)
    assert (calls, nodes) == ([], [])


@BOTH
@PLACES
@pytest.mark.parametrize("include", [True, False])
def test_the_address_is_ours(interface: str, place: str, include: bool, nodes: list[Any]) -> None:
    """New Relic collects none; ours goes with include_ip alone."""
    data = RequestData(include_ip=include)
    serve(interface, place, lambda: None, request_data=data)
    assert user_of(nodes[0]) == ({"client.address": "203.0.113.9"} if include else {})


def test_the_fields_are_a_choice(nodes: list[Any]) -> None:
    """The id alone, or what else the resolver says."""
    client = NewrelicClient(fields={"seats": "user.name", "plan": "user.email"})
    user = {"id": 1, "seats": 3, "plan": {"name": "pro"}}
    serve("wsgi", "outside", lambda: None, clients=[client], resolver=lambda _: user)
    assert user_of(nodes[0]) == {"enduser.id": "1", "user.name": 3}


@PLACES
def test_a_user_set_before_the_transaction_began_is_its_user(place: str, nodes: list[Any]) -> None:
    """With resolve="eager", or where authentication stands outside of New Relic's wrapper."""
    options = {"resolver": lambda _: ADA, "resolve": "eager"}
    serve("asgi", place, lambda: None, **options)
    assert user_of(nodes[0]) == ADAS


def test_a_thread_names_the_transaction_of_its_request(nodes: list[Any]) -> None:
    """New Relic knows no transaction in a plain thread; we kept it."""
    seen: list[Any] = []

    def handler() -> None:
        thread = Thread(target=bind(lambda: set_user(ADA)))
        thread.start()
        thread.join()
        seen.append(user_of(newrelic.agent.current_transaction()))

    serve("wsgi", "outside", handler)
    assert seen == [ADAS]


def test_a_scope_inside_of_a_request_leaves_its_transaction_alone(
    nodes: list[Any],
) -> None:
    """A job that runs in a request has a user of its own."""
    client = NewrelicClient()
    init(None, clients=[client])
    seen: list[Any] = []

    def handler() -> None:
        with isolation_scope():
            set_user({"id": 2})
        seen.append(user_of(newrelic.agent.current_transaction()))

    serve("wsgi", "outside", handler, clients=[client])
    assert seen == [{}]


def test_a_scope_has_the_transactions_that_it_runs(application: Any, nodes: list[Any]) -> None:
    """So it is in a worker, where there is no request: each task names its own user."""
    init(None, clients=[NewrelicClient()])
    with isolation_scope():
        for user in (ADA, {"id": 2}):
            with newrelic.agent.BackgroundTask(application, "job"):
                set_user(user)
    assert [user_of(node) for node in nodes] == [ADAS, {"enduser.id": "2"}]
