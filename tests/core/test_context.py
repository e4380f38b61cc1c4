"""The configured pipeline: what reaches reporting clients, and when."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import (
    asgi_call,
    asgi_request,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    RequestData,
    User,
    asgi,
    get_user,
    init,
    isolation_scope,
    set_user,
    use_user,
    wsgi,
)
from usercontext.clients import BaseClient
from usercontext.core.context import make_default
from usercontext.core.record import current
from usercontext.core.settings import Settings
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = User(id=1)
BOB = User(id=2)


def serve(interface: str, handler: Any, **options: Any) -> None:
    """Serve one request over an interface, around a handler."""
    if interface == "asgi":
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), **options))
    else:
        wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), **options))


BOTH = pytest.mark.parametrize("interface", ["asgi", "wsgi"])


@BOTH
def test_clients_are_pushed_every_change(interface: str) -> None:
    """set_user() reaches every client at once, None included."""
    client = RecordingClient()

    def handler() -> None:
        set_user(ADA)
        set_user({"id": 2, "plan": "pro"})
        set_user(None)

    serve(interface, handler, clients=[client])
    assert client.users == [{"id": "1"}, {"id": "2", "plan": "pro"}, None]


@BOTH
def test_clients_are_pushed_a_user_when_it_becomes_known(interface: str) -> None:
    """A user that a report resolved is pushed then, with its address."""
    client = RecordingClient()
    serve(
        interface,
        get_user,
        clients=[client],
        resolver=lambda _: ADA,
        request_data=RequestData(include_ip=True),
    )
    assert client.users == [{"id": "1", "ip_address": "203.0.113.9"}]


@BOTH
def test_a_client_that_records_anyway_gets_the_user_at_the_response(interface: str) -> None:
    """A request that will be sent anyway is resolved when its response starts at the latest."""
    client = RecordingClient(recording=True)
    serve(interface, lambda: None, clients=[client], resolver=lambda _: ADA)
    assert client.users == [{"id": "1"}]


def test_an_async_resolver_is_awaited_for_a_client_that_records() -> None:
    """Over ASGI the start of the response waits for the resolver, within its time."""
    client = RecordingClient(recording=True)

    async def resolver(_request: object) -> User:
        await asyncio.sleep(0)
        return ADA

    serve("asgi", lambda: None, clients=[client], resolver=resolver)
    assert client.users == [{"id": "1"}]


@BOTH
def test_a_client_that_records_gets_the_address_of_nobody(interface: str) -> None:
    """Without a resolver, what is known is pushed: the address, or nobody."""
    client = RecordingClient(recording=True)
    serve(interface, lambda: None, clients=[client], request_data=RequestData(include_ip=True))
    serve(interface, lambda: None, clients=[client])
    assert client.users == [{"ip_address": "203.0.113.9"}, None]


@BOTH
@pytest.mark.parametrize("options", [{}, {"resolver": lambda _: ADA, "resolve": "eager"}])
def test_what_begins_after_the_user_is_known_gets_the_user(interface: str, options: Any) -> None:
    """A trace may begin inside of the middleware that authenticates: its client is told again."""
    client, trace = RecordingClient(recording=True), RecordingClient()

    def handler() -> None:
        if not options:
            set_user(ADA)
        client.clear()
        trace.clear()

    serve(interface, handler, clients=[client, trace], **options)
    assert client.users == [{"id": "1"}]
    assert trace.users == []


@BOTH
def test_a_request_that_nobody_records_is_not_resolved(interface: str) -> None:
    """Clients that pull cost a silent request no call of the resolver."""
    calls: list[object] = []
    serve(interface, lambda: None, clients=[RecordingClient()], resolver=calls.append)
    assert calls == []


def test_a_use_user_block_pushes_nothing() -> None:
    """The span of a request stays the request's own user's, whoever acts in a block."""
    client = RecordingClient()

    def handler() -> None:
        set_user(ADA)
        with use_user(BOB):
            set_user({"id": 3})

    serve("wsgi", handler, clients=[client])
    assert client.users == [{"id": "1"}]


class Isolated(BaseClient):
    """A client with a scope of its own for each request."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.setups = 0

    def setup(self, get_user: Any, /) -> None:
        self.setups += 1

    @contextmanager
    def request_scope(self, get_user: Any, /) -> Iterator[None]:
        self.log.append("enter")
        yield
        self.log.append(("exit", get_user()))


@BOTH
def test_a_clients_request_scope_surrounds_the_request(interface: str) -> None:
    """It is entered before the app and left after it, and pulls this request's user."""
    client = Isolated()
    serve(interface, lambda: client.log.append("app"), clients=[client], resolver=lambda _: ADA)
    assert client.log == ["enter", "app", ("exit", {"id": "1"})]


def test_a_request_scope_over_wsgi_ends_with_the_body() -> None:
    """A streamed body is still inside the client's scope."""
    client = Isolated()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        client.log.append("body")
        yield b""

    wsgi_request(wsgi.UserContextMiddleware(app, clients=[client]))
    assert client.log == ["enter", "body", ("exit", None)]


def test_a_client_is_set_up_once_a_process() -> None:
    """However many middlewares name the same client, setup() runs once."""
    client = Isolated()
    for _ in range(3):
        serve("asgi", lambda: None, clients=[client])
    init(None, clients=[client])
    assert client.setups == 1


def test_concurrent_requests_push_their_own_users() -> None:
    """Two requests in flight push each its own user, in their own contexts."""
    client = RecordingClient(recording=True)

    async def run() -> None:
        app = asgi.UserContextMiddleware(
            plain_asgi_app(lambda: asyncio.sleep(0)),
            clients=[client],
            resolver=lambda request: {"id": request.headers["x-user"]},
        )
        await asyncio.gather(*(asgi_call(app, scope_of(x_user=str(n))) for n in range(20)))

    asyncio.run(run())
    assert sorted(int(user["id"]) for user in client.users if user) == list(range(20))


def test_what_scrubbing_leaves_of_an_address_is_not_pushed_as_one() -> None:
    """A masked address is not an address: a pushed User does not carry it."""
    client = RecordingClient()
    serve(
        "wsgi",
        lambda: set_user({"id": 1, "ip_address": "198.51.100.7"}),
        clients=[client],
        scrub=[("$user.ip_address", "mask")],
    )
    assert client.users == [{"id": "1"}]


@BOTH
def test_a_pulling_client_never_sees_an_exception(
    interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    """get_user() of a client returns None where asking fails, and the log says so once."""
    client = RecordingClient()
    pulled: list[Any] = []

    def handler() -> None:
        assert client.get_user is not None
        pulled.append(client.get_user())

    for _ in range(2):
        serve(interface, handler, clients=[client], resolver=lambda _: 1 / 0)
    assert pulled == [None, None]
    assert len([record for record in caplog.records if record.name == "usercontext"]) == 1


@BOTH
def test_a_pulling_client_can_ask_without_resolving(interface: str) -> None:
    """get_user(resolve=False) of a client only peeks: a log line costs no resolver call."""
    client = RecordingClient()
    calls: list[object] = []

    def handler() -> None:
        assert client.get_user is not None
        assert client.get_user(resolve=False) is None
        assert calls == []
        set_user(ADA)
        assert client.get_user(resolve=False) == {"id": "1"}

    serve(interface, handler, clients=[client], resolver=calls.append)
    assert calls == []


def test_a_client_of_a_request_pulls_the_user_of_a_block_inside() -> None:
    """What a use_user block does is reported with the block's user, also by a bound client."""
    pulled: list[Any] = []

    class Bound(BaseClient):
        def request_scope(self, get_user: Any, /) -> None:
            self.get_user = get_user

    client = Bound()

    def handler() -> None:
        set_user(ADA)
        with use_user(BOB):
            pulled.append(client.get_user())
        pulled.append(client.get_user())

    serve("wsgi", handler, clients=[client])
    assert pulled == [{"id": "2"}, {"id": "1"}]


def test_a_user_is_pushed_inside_its_own_request() -> None:
    """Whoever asks for another request's user, clients are handed it as that request's."""
    pushed: list[Any] = []

    class Pushed(BaseClient):
        def set_user(self, user: User | None, /) -> None:
            pushed.append((user, get_user()))

    def handler() -> None:
        request = {"usercontext.scope": current()}
        with isolation_scope():
            get_user(request=request)

    serve("wsgi", handler, clients=[Pushed()], resolver=lambda _: ADA)
    assert pushed == [(ADA, ADA)]


def test_options_that_differ_from_an_outer_middlewares_are_named() -> None:
    """What both were given counts, and not what the outer one has of `init()`."""

    def resolver(_request: object) -> None:
        """Find nobody."""

    own = Settings(resolver=resolver, resolver_timeout=2.0, detached_ttl=None)
    outer = Settings(resolver=lambda _: None, resolver_timeout=2.0, resolve="eager")
    assert own.conflicts_with(outer) == ["resolver"]
    make_default(outer)
    assert own.conflicts_with(Settings().merged_under(outer)) == []
