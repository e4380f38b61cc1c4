"""What other reporting clients get wrong; here it stays mended.

Fifteen defects were reproduced with the most used client of the kind, and are numbered so in the
tests' facts. On real servers 1, 3, 6, 7 and 11 are tests of `servers/scenarios.py`; 15, rate limits
and forks, is the subject of `sentry/test_rate_limits.py` and `sentry/test_processes.py`.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import weakref
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, BaseUser, SimpleUser, UnauthenticatedUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    RequestData,
    User,
    capture_message,
    get_user,
    init,
    set_request_data,
    set_user,
    use_user,
)
from usercontext.asgi import UserContextMiddleware
from usercontext.frameworks.flask import UserContext
from usercontext.testing import RecordingClient
from usercontext.wsgi import UserContextMiddleware as WSGIUserContextMiddleware

PEER = "203.0.113.9"
WITH_ADDRESS = RequestData(include_ip=True)
# As those of a proxy are: whoever can reach the app may have written them.
ADDRESS_HEADERS = {
    "x_forwarded_for": "198.51.100.7",
    "forwarded": "for=198.51.100.7",
    "cf_connecting_ip": "198.51.100.7",
    "true_client_ip": "198.51.100.7",
    "x_real_ip": "198.51.100.7",
    "fastly_client_ip": "198.51.100.7",
    "x_envoy_external_address": "198.51.100.7",
    "x_cluster_client_ip": "198.51.100.7",
}


@pytest.fixture(autouse=True)
def recorder() -> RecordingClient:
    """Record what would be sent."""
    recorder = RecordingClient()
    init(client=recorder)
    return recorder


class Database:
    """What an app keeps in the scope of a request."""


def report_as(user: object) -> Any:
    """Make a handler that sets a user and reports a message."""

    def handler() -> None:
        set_user(user)
        capture_message("reported")

    return handler


def serve_authenticated(user: BaseUser, **kept: object) -> list[dict[str, Any]]:
    """Serve a request with Starlette's own authentication; return the messages sent."""

    class Backend:
        async def authenticate(self, connection: object) -> tuple[AuthCredentials, BaseUser]:
            return AuthCredentials(), user

    async def endpoint(request: object) -> PlainTextResponse:
        if kept:
            set_user(kept)
        capture_message("reported")
        return PlainTextResponse("ok")

    app: Any = Starlette(routes=[Route("/cart", endpoint)])
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    app.add_middleware(UserContextMiddleware, resolver=lambda request: request.user)
    return asgi_request(app)


# --- the app's own objects -------------------------------------------------------------------


def test_the_apps_dict_is_not_kept(recorder: RecordingClient) -> None:
    """A user dict that serves two requests gets the address of neither (1)."""
    cached = {"id": "ada"}
    app = WSGIUserContextMiddleware(plain_wsgi_app(report_as(cached)), request_data=WITH_ADDRESS)
    for peer in (PEER, "203.0.113.10"):
        wsgi_request(app, environ_of(client=peer))
    addresses = [event["user"]["ip_address"] for event in recorder.events]
    assert (addresses, cached) == ([PEER, "203.0.113.10"], {"id": "ada"})


def test_scrubbing_never_changes_the_apps_objects(recorder: RecordingClient) -> None:
    """Secrets and addresses vanish from the report, never from what the app handed over (2)."""
    user = {"id": "ada", "ip_address": PEER, "profile": {"email": "ada@example.org"}}
    body = {"password": "hunter2", "cart": [{"token": "s3cret"}]}
    before = copy.deepcopy((user, body))

    def handler() -> None:
        set_request_data(body)
        report_as(user)()

    app = WSGIUserContextMiddleware(
        plain_wsgi_app(handler),
        request_data=RequestData(include_data=True),
        scrub=["$user.ip_address", "$user.**.email", "@ip"],
    )
    wsgi_request(app)
    sent = json.dumps(recorder.events)
    assert (user, body) == before
    assert not any(value in sent for value in (PEER, "ada@example.org", "hunter2", "s3cret"))


# --- whose user it is ------------------------------------------------------------------------


def test_a_user_property_that_raises_harms_nothing(recorder: RecordingClient) -> None:
    """A user of Starlette whose properties raise leaves the response a 200 (3)."""

    class Detached(BaseUser):
        @property
        def is_authenticated(self) -> bool:
            raise LookupError("the session of this object is closed")

        @property
        def identity(self) -> str:
            raise LookupError("the session of this object is closed")

    messages = serve_authenticated(Detached())
    assert messages[0]["status"] == 200
    assert "user" not in recorder.events[0]


@pytest.mark.parametrize(
    "framework_user",
    [
        pytest.param(UnauthenticatedUser(), id="anonymous"),
        pytest.param(SimpleUser("somebody else"), id="identity only"),
    ],
)
def test_a_frameworks_user_erases_nobody(
    recorder: RecordingClient, framework_user: BaseUser
) -> None:
    """The user that the app set stays, whomever Starlette has (4)."""
    serve_authenticated(framework_user, id="ada")
    assert recorder.events[0]["user"] == {"id": "ada"}


def test_an_explicit_user_is_not_filled_up(recorder: RecordingClient) -> None:
    """A user with a name alone is reported with that alone, whatever the resolver knows (5)."""
    resolver_user = {"id": "7", "email": "bob@example.org", "username": "bob"}
    app = WSGIUserContextMiddleware(
        plain_wsgi_app(report_as({"username": "ada"})), resolver=lambda _: resolver_user
    )
    wsgi_request(app)
    assert recorder.events[0]["user"] == {"username": "ada"}


def test_a_request_that_reports_nothing_asks_nobody() -> None:
    """Flask's resolver is not called by a request without a report (7)."""
    asked = []
    app = Flask(__name__)
    app.add_url_rule("/", "idle", view_func=lambda: "ok")
    app.add_url_rule("/report", "report", view_func=lambda: capture_message("reported") or "ok")
    UserContext(app, resolver=lambda request: asked.append(request.path))
    client = app.test_client()
    client.get("/")
    assert asked == []
    client.get("/report")
    assert asked == ["/report"]


@dataclass
class Row:
    """A user model, which has more to it than who somebody is."""

    id: str
    email: str
    password_hash: str

    def asdict(self) -> dict[str, str]:
        """Give all of it."""
        return vars(self)


@pytest.mark.parametrize("kept_as", [Row, dict])
def test_a_frameworks_user_model_is_never_sent_whole(
    recorder: RecordingClient, kept_as: Any
) -> None:
    """Of the user that Litestar's authentication found, only the identity leaves (10)."""
    litestar = pytest.importorskip("litestar")
    from usercontext.frameworks import litestar as ours

    user = kept_as(id="ada", email="ada@example.org", password_hash="s3cret")

    def authenticated(app: Any) -> Any:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            scope["user"] = user
            await app(scope, receive, send)

        return middleware

    @litestar.get("/cart", sync_to_thread=False)
    def cart() -> None:
        raise LookupError("no such thing")

    plugin = ours.UserContext(resolver=ours.request_user)
    app = litestar.Litestar([cart], plugins=[plugin], middleware=[authenticated])
    asgi_request(app)
    assert recorder.events[0]["user"] == {"id": "ada", "email": "ada@example.org"}
    assert "s3cret" not in json.dumps(recorder.events)


def test_nobody_clears_a_user_set_further_out(recorder: RecordingClient) -> None:
    """`set_user(None)` clears what a middleware, the resolver or a block had said (11)."""

    def handler() -> None:
        set_user({"id": "set further out"})
        with use_user({"id": "of the block"}):
            report_as(None)()
        report_as(None)()

    app = WSGIUserContextMiddleware(plain_wsgi_app(handler), resolver=lambda _: {"id": "found"})
    wsgi_request(app)
    assert ["user" in event for event in recorder.events] == [False, False]


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged", ["198.51.100.7", "<script>", "unknown", "{{auto}}", "198.51.100.7, 10.0.0.1"]
)
@pytest.mark.parametrize("trusted", [(), (PEER,)], ids=["nobody trusted", "peer trusted"])
def test_no_client_chooses_its_address(
    recorder: RecordingClient, forged: str, trusted: tuple[str, ...]
) -> None:
    """The leftmost forwarded address is never believed, and what is not an address is none (8)."""
    request_data = RequestData(include_ip=True, trusted_proxies=trusted)
    app = WSGIUserContextMiddleware(
        plain_wsgi_app(report_as({"id": "ada"})), request_data=request_data
    )
    near = f"{forged}, 192.0.2.44" if trusted else forged
    wsgi_request(app, environ_of(x_forwarded_for=near))
    expected = "192.0.2.44" if trusted else PEER
    assert recorder.events[0]["user"] == {"id": "ada", "ip_address": expected}


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_no_address_leaves_unasked(recorder: RecordingClient, interface: str) -> None:
    """With `include_ip=False` no header or field of a whole report names an address (9)."""
    request_data = RequestData(
        include_headers=True, include_query_string=True, include_cookies=True, include_data=True
    )
    handler = report_as({"id": "ada"})
    if interface == "asgi":
        app = UserContextMiddleware(plain_asgi_app(handler), request_data=request_data)
        asgi_request(app, scope_of(client=PEER, **ADDRESS_HEADERS))
    else:
        wsgi_app = WSGIUserContextMiddleware(plain_wsgi_app(handler), request_data=request_data)
        wsgi_request(wsgi_app, environ_of(client=PEER, **ADDRESS_HEADERS))
    sent = json.dumps(recorder.events)
    assert "shop.example" in sent
    assert PEER not in sent
    assert "198.51.100.7" not in sent


# --- many, long and large ----------------------------------------------------------------------


def test_many_reporting_clients_all_get_the_user(recorder: RecordingClient) -> None:
    """The user reaches each of fifty reporting clients, and the report itself (12)."""
    clients = [RecordingClient() for _ in range(50)]
    app = WSGIUserContextMiddleware(plain_wsgi_app(report_as({"id": "ada"})), clients=clients)
    wsgi_request(app)
    assert [client.users[-1] for client in clients] == [{"id": "ada"}] * 50
    assert recorder.events[0]["user"] == {"id": "ada"}


def test_a_background_task_pins_only_the_user() -> None:
    """A task that outlives its request keeps the user, and not the request's scope (13)."""
    released = asyncio.Event()
    later: list[asyncio.Task[User | None]] = []

    async def look_later() -> User | None:
        await released.wait()
        return get_user()

    async def start_task() -> None:
        set_user({"id": "ada"})
        later.append(asyncio.create_task(look_later()))

    async def run() -> tuple[object, User | None]:
        database = Database()
        app = UserContextMiddleware(plain_asgi_app(start_task))
        await asgi_call(app, {**scope_of(), "database": database})
        pinned = weakref.ref(database)
        del database
        gc.collect()
        kept = pinned()
        released.set()
        return kept, await later[0]

    assert asyncio.run(run()) == (None, User(id="ada"))


@pytest.mark.parametrize(
    ("user", "reported"),
    [
        pytest.param(
            {"id": UUID("12345678-1234-5678-1234-567812345678")},
            {"id": "12345678-1234-5678-1234-567812345678"},
            id="UUID",
        ),
        pytest.param(["ada"], None, id="list"),
        pytest.param("ada", None, id="text"),
        pytest.param({"id": ["ada"]}, None, id="list as id"),
    ],
)
def test_what_is_no_user_is_not_sent(
    recorder: RecordingClient, user: object, reported: dict[str, str] | None
) -> None:
    """An id is sent as plain text, and what is not a user as nobody (14)."""
    wsgi_request(WSGIUserContextMiddleware(plain_wsgi_app(report_as(user))))
    assert recorder.events[0].get("user") == reported


def test_a_large_user_is_bounded(recorder: RecordingClient) -> None:
    """A user of 200 kB is sent cut to 10, who it is untouched (14)."""
    user = {"id": "ada", **{f"key {n}": "x" * 1000 for n in range(200)}}
    wsgi_request(WSGIUserContextMiddleware(plain_wsgi_app(report_as(user))))
    sent = recorder.events[0]["user"]
    assert sent["id"] == "ada"
    assert len(json.dumps(sent)) < 10_000
