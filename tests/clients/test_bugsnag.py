"""bugsnag: a callback that runs after those of its own middlewares."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import bugsnag
import pytest
from bugsnag.asgi import BugsnagMiddleware as AsgiMiddleware
from bugsnag.configuration import RequestConfiguration
from bugsnag.wsgi.middleware import BugsnagMiddleware as WsgiMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.clients.serving import BOTH
from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, init, isolation_scope, set_user, wsgi
from usercontext.clients.bugsnag import BugsnagClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "plan": "pro"}
ADAS = {"id": "1", "username": "ada", "name": "ada", "plan": "pro"}
SPOOFED = "6.6.6.6"
PROXY = "10.0.0.7"
PLACES = pytest.mark.parametrize("place", ["absent", "outside", "inside"])


class Kept:
    """A delivery that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def deliver(self, config: Any, payload: Any, options: Any = None) -> None:
        self.events += json.loads(payload)["events"]

    def deliver_sessions(self, config: Any, payload: Any, options: Any = None) -> None:
        """Count no sessions."""

    def users(self) -> list[Any]:
        """Return the user of each event."""
        return [event["user"] for event in self.events]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Configure bugsnag anew, with a delivery that keeps."""
    delivery = Kept()
    bugsnag.configure(
        api_key="0" * 32,
        delivery=delivery,
        asynchronous=False,
        auto_capture_sessions=False,
    )
    stack = bugsnag.configure().middleware
    callbacks = list(stack.stack)
    yield delivery
    stack.stack[:] = callbacks
    RequestConfiguration.clear()


def serve(interface: str, place: str, handler: Any, **options: Any) -> None:
    """Serve a request with bugsnag's middleware in its place."""
    over_asgi = interface == "asgi"
    theirs: Any = AsgiMiddleware if over_asgi else WsgiMiddleware
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    app = theirs(app) if place == "inside" else app
    app = ours(app, **{"clients": [BugsnagClient()], **options})
    app = theirs(app) if place == "outside" else app
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for=SPOOFED))
    else:
        wsgi_request(app, environ_of(x_forwarded_for=SPOOFED))


def report() -> None:
    """Report an error that was handled."""
    bugsnag.notify(LookupError("no such order"))


def test_it_conforms(kept: Kept) -> None:
    """Bugsnag passes the suite that every client does."""

    def make_client() -> BugsnagClient:
        bugsnag.configure().middleware.stack.clear()
        return BugsnagClient()

    def users() -> list[Any]:
        named = [
            {name: value for name, value in (user or {}).items() if name != "name"} or None
            for user in kept.users()
        ]
        kept.events.clear()
        return named

    client_conformance(make_client, report=report, users=users)


@BOTH
@PLACES
def test_an_event_names_the_user(interface: str, place: str, kept: Kept) -> None:
    """Not the address of the first X-Forwarded-For, which bugsnag takes for an id."""
    serve(interface, place, report, resolver=lambda _: ADA)
    assert kept.users() == [ADAS]
    told = [event["metaData"] for event in kept.events]
    assert SPOOFED not in str(told)
    assert "203.0.113.9" not in str(told)


@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_an_error_names_its_user(interface: str, place: str, kept: Kept) -> None:
    """Bugsnag's middleware reports it when ours is already left, or not yet."""

    def fail() -> None:
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        serve(interface, place, fail, resolver=lambda _: ADA)
    assert kept.users() == [ADAS]


@BOTH
@PLACES
def test_nobody_is_nobody(interface: str, place: str, kept: Kept) -> None:
    """What bugsnag or the app put there is removed where the user is nobody."""

    def handler() -> None:
        bugsnag.configure_request(user={"id": "9"})
        set_user(None)
        report()

    serve(interface, place, handler)
    assert kept.users() == [{}]


@BOTH
def test_the_address_is_ours(interface: str, kept: Kept) -> None:
    """With include_ip the user and the request tell the address that was found."""
    with_ip = RequestData(include_ip=True)
    serve(interface, "outside", report, resolver=lambda _: ADA, request_data=with_ip)
    assert kept.users()[0]["ip_address"] == "203.0.113.9"


def test_concurrent_requests_stay_apart(kept: Kept) -> None:
    """Bugsnag's own configuration of a request, made in the parent, is not shared by tasks."""
    bugsnag.configure_request(context="parent")

    async def handler() -> None:
        number = str(len(numbers))
        numbers.append(number)
        bugsnag.configure_request(context=number)
        set_user({"id": number})
        await asyncio.sleep(0)
        report()

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[BugsnagClient()])
        await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(5)))

    numbers: list[str] = []
    asyncio.run(run())
    seen = [(event["context"], event["user"]["id"]) for event in kept.events]
    assert seen == [(number, number) for number in numbers]


def test_outside_of_requests_nothing_is_changed(kept: Kept) -> None:
    """A job's own user stays."""
    init(None, clients=[BugsnagClient()])
    bugsnag.notify(LookupError(), user={"id": "worker"})
    assert kept.users() == [{"id": "worker"}]


def test_jobs_change_nothing_around_them(kept: Kept) -> None:
    """A job's event shows the task that it stands in; what it configures stays its own."""
    init(None, clients=[BugsnagClient()])
    bugsnag.configure_request(context="task", user={"id": "worker"})
    with isolation_scope({"id": 1}):
        report()
        bugsnag.configure_request(context="job")
        report()
    report()
    seen = [(event["context"], event["user"].get("id")) for event in kept.events]
    assert seen == [("task", "1"), ("job", "1"), ("task", "worker")]


@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_what_bugsnag_says_of_the_request_stays(interface: str, place: str, kept: Kept) -> None:
    """Its own middleware isolates already: an event in the app still shows the URL."""
    serve(interface, place, report)
    assert kept.events[0]["metaData"]["request"]["url"] == "https://shop.example/cart"


@BOTH
def test_the_environment_tells_no_address(interface: str, kept: Kept) -> None:
    """Where bugsnag sends the whole environ or scope, it goes without addresses."""
    bugsnag.configure(send_environment=True)
    serve(interface, "outside", report)
    bugsnag.configure(send_environment=False)
    environment = kept.events[0]["metaData"]["environment"]
    assert environment
    assert SPOOFED not in str(environment)
    assert "203.0.113.9" not in str(environment)


def environment_of(kept: Kept, environ: dict[str, Any], wrap: Any = None) -> dict[str, Any]:
    """Serve a request whose environ bugsnag sends, and return what it sent of it."""
    bugsnag.configure(send_environment=True)
    try:
        app: Any = WsgiMiddleware(plain_wsgi_app(report))
        app = wsgi.UserContextMiddleware(app, clients=[BugsnagClient()])
        wsgi_request(app if wrap is None else wrap(app), environ)
    finally:
        bugsnag.configure(send_environment=False)
    environment: dict[str, Any] = kept.events[0]["metaData"]["environment"]
    return environment


def test_what_proxy_fix_keeps_of_the_peer_stays_here(kept: Kept) -> None:
    """It replaces REMOTE_ADDR by what the proxy says, and keeps the connection's beside it."""
    environ = environ_of(client=PROXY, x_forwarded_for=SPOOFED)
    environment = environment_of(kept, environ, lambda app: ProxyFix(app, x_for=1))
    assert environment["PATH_INFO"] == "/cart"
    assert PROXY not in str(environment)
    assert SPOOFED not in str(environment)


def test_the_text_of_a_servers_socket_stays_here(kept: Kept) -> None:
    """Gunicorn and werkzeug put the connection into the environ, whose text names the peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, address = server.accept()
        with client, peer:
            assert str(address[1]) in str(peer)
            environment = environment_of(kept, {**environ_of(), "gunicorn.socket": peer})
    assert environment["gunicorn.socket"] == "<socket>"


def test_other_keys_of_the_environ_tell_no_address(kept: Kept) -> None:
    """An adapter keeps a whole scope or event there, with the address that the request has."""
    held = {"asgi.scope": {"client": ["203.0.113.9", 1], "path": "/"}, "own.peer": "at 203.0.113.9"}
    environment = environment_of(kept, {**environ_of(), **held})
    assert environment["asgi.scope"]["path"] == "/"
    assert "203.0.113.9" not in str(environment)


def test_an_environ_that_refers_to_itself_is_sent(kept: Kept) -> None:
    """What lies deeper than anybody looks is replaced."""
    held: dict[str, Any] = {}
    held["again"] = held
    assert environment_of(kept, {**environ_of(), "own": held})["PATH_INFO"] == "/cart"


def test_an_address_that_was_asked_for_is_in_the_environment(kept: Kept) -> None:
    """Ours, in REMOTE_ADDR, where bugsnag sends the environ."""
    bugsnag.configure(send_environment=True)
    serve("wsgi", "outside", report, request_data=RequestData(include_ip=True))
    bugsnag.configure(send_environment=False)
    assert kept.events[0]["metaData"]["environment"]["REMOTE_ADDR"] == "203.0.113.9"


def test_a_header_with_underscores_tells_no_address(kept: Kept) -> None:
    """ASGI servers hand it on as it was sent."""
    scope = scope_of()
    scope["headers"].append((b"x_real_ip", SPOOFED.encode()))
    ours: Any = asgi.UserContextMiddleware(plain_asgi_app(report), clients=[BugsnagClient()])
    asgi_request(AsgiMiddleware(ours), scope)
    assert "host" in kept.events[0]["metaData"]["request"]["headers"]
    assert SPOOFED not in str(kept.events)
