"""The ASGI middleware: one record a connection, kept apart from the server and from others."""

from __future__ import annotations

import asyncio
import gc
from contextvars import copy_context
from typing import Any

import pytest

from tests.asgi_validator import ProtocolError, validated
from tests.driver import asgi_call, asgi_request, plain_asgi_app, scope_of
from usercontext import (
    ConfigurationError,
    RequestData,
    User,
    get_user,
    init,
    isolation_scope,
    resolve_user,
    set_user,
    testing,
    use_user,
)
from usercontext.asgi import UserContextMiddleware
from usercontext.core.record import KEY, RequestRecord, current

ADA = User(id=1)
BOB = User(id=2)


def resolve_by_header(request: Any) -> dict[str, str] | None:
    """Name the user that a header names."""
    name = request.headers.get("x-user")
    return {"id": name} if name else None


@pytest.mark.parametrize("resolve", ["eager", "lazy"])
def test_a_resolver_leaves_the_headers_to_the_app(resolve: Any) -> None:
    """ASGI allows iterators, which are empty once they have been read."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_user())
        seen.append([tuple(pair) for pair in scope["headers"]])

    scope = scope_of() | {"headers": iter([iter([b"x-user", b"ada"]), [b"accept", b"a"]])}
    wrapped = UserContextMiddleware(app, resolver=resolve_by_header, resolve=resolve)
    asyncio.run(asgi_call(wrapped, scope))
    assert seen == [User(id="ada"), [(b"x-user", b"ada"), (b"accept", b"a")]]


# --- isolation --------------------------------------------------------------------------------


def test_users_do_not_leak_between_concurrent_requests() -> None:
    """A hundred requests in flight never see each other's user."""
    seen: dict[str, str | None] = {}

    async def run() -> None:
        gate = asyncio.Barrier(100)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            name = scope["headers"][-1][1].decode()
            set_user({"id": name})
            await gate.wait()
            user = get_user()
            seen[name] = None if user is None else user.id

        wrapped = UserContextMiddleware(app)
        calls = (asgi_call(wrapped, scope_of(x_user=str(name))) for name in range(100))
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert seen == {str(name): str(name) for name in range(100)}


def test_outside_the_middleware_there_is_no_user() -> None:
    """Once a request has ended, its context shows nobody again."""

    async def run() -> User | None:
        await asgi_call(UserContextMiddleware(plain_asgi_app(lambda: set_user(ADA))), scope_of())
        return get_user()

    assert asyncio.run(run()) is None


@pytest.mark.parametrize("ending", ["http.response.body", "http.response.trailers"])
def test_the_server_sees_no_user_where_it_goes_on_to_the_next_request(ending: str) -> None:
    """receive() and the send that ends a response run with our variable at nothing."""
    seen: list[tuple[str, object]] = []

    async def receive() -> dict[str, Any]:
        seen.append(("receive", current()))
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        seen.append((message["type"], current()))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": ending})
        seen.append(("app", get_user()))

    asyncio.run(UserContextMiddleware(app)(scope_of(), receive, send))
    shown = dict(seen)
    assert shown["receive"] is None
    assert shown[ending] is None
    assert shown["app"] == ADA


@pytest.mark.parametrize(
    ("message", "is_last"),
    [
        ({"type": "http.response.body"}, True),
        ({"type": "http.response.body", "more_body": True}, False),
        ({"type": "http.response.trailers", "more_trailers": True}, False),
        ({"type": "http.response.pathsend", "path": "/x"}, True),
        ({"type": "websocket.close"}, True),
        ({"type": "websocket.http.response.body", "more_body": False}, True),
        ({"type": "websocket.send", "text": "x"}, False),
    ],
    ids=str,
)
def test_only_what_ends_a_response_is_sent_without_a_user(
    message: dict[str, Any], is_last: bool
) -> None:
    """Chunks in the middle cost nothing: the firewall stands at the last message alone."""
    seen: list[bool] = []

    async def send(_message: dict[str, Any]) -> None:
        seen.append(current() is None)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)

    asyncio.run(UserContextMiddleware(app)(scope_of(), send, send))
    assert seen == [is_last]


def test_a_stale_context_shows_nothing_to_the_next_request() -> None:
    """A request that starts in the context of the one before is nobody's all the same."""
    seen: list[User | None] = []
    middleware = UserContextMiddleware(plain_asgi_app(lambda: seen.append(get_user())))

    async def first(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        # As uvicorn does for a pipelined request: the next task copies the context of this one.
        await asyncio.create_task(
            asgi_call(middleware, scope_of()),
            context=copy_context(),
        )
        seen.append(get_user())

    asgi_request(UserContextMiddleware(first))
    assert seen == [None, ADA]


def test_a_sub_request_in_process_is_a_request_of_its_own() -> None:
    """Nesting is decided by the key in the scope: a new scope inside a request is another one."""
    inner = UserContextMiddleware(plain_asgi_app(lambda: set_user(BOB)))
    seen: list[User | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        await asgi_call(inner, scope_of())
        seen.append(get_user())

    asgi_request(UserContextMiddleware(app))
    assert seen == [ADA]


def test_a_task_destroyed_in_a_foreign_context_ends_quietly() -> None:
    """Closing a pending request from another context resets nothing that is not ours."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def start() -> Any:
        call = UserContextMiddleware(app)(scope_of(), None, None)  # type: ignore[arg-type]
        copy_context().run(call.send, None)
        return call

    call = asyncio.run(start())
    call.close()
    assert get_user() is None


# --- nesting --------------------------------------------------------------------------------


def test_wrapped_twice_is_harmless() -> None:
    """Two wrappings share one record, and one call of the resolver."""
    calls: list[object] = []

    def resolver(request: object) -> User:
        calls.append(request)
        return ADA

    seen: list[User | None] = []
    app = UserContextMiddleware(plain_asgi_app(lambda: seen.append(get_user())), resolver=resolver)
    asgi_request(UserContextMiddleware(app, resolver=resolver, resolve="eager"))
    assert seen == [ADA]
    assert len(calls) == 1


def test_a_mounted_apps_own_resolver_names_its_users() -> None:
    """An inner middleware's resolver applies from there on, also after the outer one answered."""
    seen: list[User | None] = []
    inner = UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())), resolver=lambda _: BOB
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_user())
        await inner(dict(scope), receive, send)

    asgi_request(UserContextMiddleware(app, resolver=lambda _: ADA))
    assert seen == [ADA, BOB]


def test_an_inner_resolver_does_not_hide_an_explicit_user() -> None:
    """What the app said stays, whatever is mounted."""
    seen: list[User | None] = []
    inner = UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())), resolver=lambda _: BOB
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        await inner(scope, receive, send)

    asgi_request(UserContextMiddleware(app))
    assert seen == [ADA]


def test_a_mounted_app_called_in_a_stale_context_has_its_own_requests_user() -> None:
    """The record under the key is the request's, whatever the context shows."""
    seen: list[User | None] = []
    inner = UserContextMiddleware(plain_asgi_app(lambda: seen.append(get_user())))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        with isolation_scope(user=BOB):
            await inner(scope, receive, send)
        with use_user(BOB):
            await inner(scope, receive, send)

    asgi_request(UserContextMiddleware(app))
    assert seen == [ADA, BOB]


def test_an_inner_middleware_may_ask_for_the_address() -> None:
    """An inner request_data applies from there on."""
    seen: list[User | None] = []
    inner = UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())),
        request_data=RequestData(include_ip=True),
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_user())
        await inner(scope, receive, send)

    asgi_request(UserContextMiddleware(app))
    assert seen == [None, User(ip_address="203.0.113.9")]


def test_a_closed_record_under_the_key_is_no_nesting() -> None:
    """A scope that is served again gets a new record."""
    scope = scope_of()
    app = UserContextMiddleware(plain_asgi_app(lambda: None))
    asgi_request(app, scope)
    first = scope[KEY]
    asgi_request(app, scope)
    assert isinstance(first, RequestRecord)
    assert scope[KEY] is not first


def test_somebody_elses_value_under_the_key_is_replaced() -> None:
    """What is not an open record of ours does not count as nesting."""
    scope = scope_of()
    scope[KEY] = "something else"
    asgi_request(UserContextMiddleware(plain_asgi_app(lambda: None)), scope)
    assert isinstance(scope[KEY], RequestRecord)


# --- the protocol -------------------------------------------------------------------------------


def test_lifespan_messages_pass_untouched() -> None:
    """A lifespan gets the server's own scope and callables, and no record."""
    seen: list[tuple[Any, ...]] = []

    async def app(*arguments: Any) -> None:
        seen.append((*arguments, get_user()))

    async def callable_() -> None: ...

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    asyncio.run(UserContextMiddleware(app)(scope, callable_, callable_))  # type: ignore[arg-type]
    assert seen == [(scope, callable_, callable_, None)]
    assert KEY not in scope


def test_a_websocket_has_one_record_for_its_connection() -> None:
    """The user set at one message of a websocket is there at the next, and may change."""
    seen: list[User | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for user in (ADA, BOB):
            await receive()
            set_user(user)
            await send({"type": "websocket.accept"})
            seen.append(get_user())

    scope = {**scope_of(), "type": "websocket"}
    asgi_request(UserContextMiddleware(app), scope)
    assert seen == [ADA, BOB]


@pytest.mark.parametrize("options", [{}, {"clients": [testing.RecordingClient(recording=True)]}])
def test_the_messages_are_the_apps_own(options: dict[str, Any]) -> None:
    """What the app sends reaches the server as the same objects, in order."""
    messages = [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body", "body": b"2"},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    sent = asgi_request(UserContextMiddleware(app, **options))
    assert [id(message) for message in sent] == [id(message) for message in messages]


WITH_CLIENT = {"clients": [testing.RecordingClient(recording=True)]}


@pytest.mark.parametrize("options", [{}, WITH_CLIENT, {"resolve": "eager"}], ids=str)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_it_passes_an_asgi_validator_on_both_sides(kind: str, options: dict[str, Any]) -> None:
    """The specification's messages, keys and order hold towards the app and the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await send({"type": "http.response.body", "body": b"2"})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 1000})

    middleware = UserContextMiddleware(validated(app), resolver=resolve_by_header, **options)
    sent = asgi_request(validated(middleware), {**scope_of(), "type": kind})
    assert len(sent) == 3


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.body"}],
        [{"type": "http.response.start", "status": "200"}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"Upper", b"")]}],
        [{"type": "http.response.start", "status": 200}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}] * 2,
    ],
)
def test_the_asgi_validator_refuses(messages: list[dict[str, Any]]) -> None:
    """The validator that the test above relies on finds what breaks the specification."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with pytest.raises(ProtocolError):
        asgi_request(validated(app))


def test_an_error_is_re_raised_unchanged() -> None:
    """The very exception leaves the middleware, with its cause and context as they were."""
    cause = LookupError("inner")
    error = RuntimeError("outer")

    def fail() -> None:
        raise error from cause

    with pytest.raises(RuntimeError) as caught:
        asgi_request(UserContextMiddleware(plain_asgi_app(fail), resolver=lambda _: 1 / 0))
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)


def test_a_frozen_exception_passes_and_names_its_user() -> None:
    """An exception whose class refuses attributes is still the same one, and still found."""

    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    def fail() -> None:
        raise FrozenError

    with pytest.raises(FrozenError) as caught:
        asgi_request(UserContextMiddleware(plain_asgi_app(fail), resolver=lambda _: ADA))
    assert get_user(error=caught.value) == ADA


def test_an_error_finds_the_address_of_nobody_further_out() -> None:
    """A handler outside of us learns whence the request came, also where nobody was asked."""

    def fail() -> None:
        raise LookupError

    app = UserContextMiddleware(plain_asgi_app(fail), request_data=RequestData(include_ip=True))
    with pytest.raises(LookupError) as caught:
        asgi_request(app, {**scope_of(), "client": ("203.0.113.9", 50123)})
    assert get_user(error=caught.value) == User(ip_address="203.0.113.9")


@pytest.mark.parametrize(
    "change",
    [
        lambda scope: scope.pop("client"),
        lambda scope: scope.update(client=None),
        lambda scope: scope.update(client=["203.0.113.9", "50123"]),
        lambda scope: scope.update(client=("nonsense", 0)),
        lambda scope: scope.pop("headers"),
        lambda scope: scope["headers"].append((b"x-caf\xe9", b"\xff\xfe")),
        lambda scope: scope.update(headers=None),
        lambda scope: scope.pop("path"),
    ],
    ids=["no client", "None", "list", "nonsense", "no headers", "bytes", "None headers", "no path"],
)
def test_an_odd_scope_changes_no_response(
    change: Any, usercontext_recorder: testing.RecordingClient
) -> None:
    """Whatever a server left out of the scope, the response is what it would be without us."""
    scope = scope_of()
    change(scope)

    def handler() -> None:
        get_user()
        from usercontext import capture_message

        assert capture_message("hello") is not None

    app = UserContextMiddleware(
        plain_asgi_app(handler),
        request_data=RequestData(
            include_ip=True, include_headers=True, include_cookies=True, include_query_string=True
        ),
    )
    assert asgi_request(app, scope)[0]["status"] == 200
    assert len(usercontext_recorder.events) == 1


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolver": "find_user"}, ["resolver", "function", "str"]),
        ({"resolvr": None}, ["resolvr", "did you mean resolver"]),
        ({"resolve": "lasy"}, ["resolve", "lazy", "eager"]),
        ({"resolver_timeout": 0}, ["resolver_timeout", "above 0"]),
        ({"resolver_timeout": True}, ["resolver_timeout"]),
        ({"resolver_thread": 1}, ["resolver_thread", "True or False"]),
        ({"detached_ttl": -1}, ["detached_ttl", "above 0"]),
        ({"request_data": {"include_ip": True}}, ["request_data", "RequestData(include_ip=True)"]),
        ({"clients": testing.RecordingClient()}, ["clients", "clients=[client]"]),
        ({"clients": [testing.RecordingClient]}, ["RecordingClient()"]),
        ({"clients": [object()]}, ["clients", "object", "setup()"]),
        ({"never_store_ip": "yes"}, ["never_store_ip"]),
        ({"scrub": ["$user.ipaddress"]}, ["ip_address"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_option_names_itself_and_the_fix(options: Any, words: list[str]) -> None:
    """Wrong configuration raises when the middleware is built, and says what to write."""
    with pytest.raises(ConfigurationError) as caught:
        UserContextMiddleware(plain_asgi_app(lambda: None), **options)
    for word in words:
        assert word in str(caught.value)


def test_init_may_come_after_the_middleware() -> None:
    """What init() configures is read at each request, and the middleware's own options win."""
    seen: list[User | None] = []
    plain = UserContextMiddleware(plain_asgi_app(lambda: seen.append(get_user())))
    own = UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())), resolver=lambda _: BOB
    )
    init(None, resolver=lambda _: ADA)
    for app in (plain, own):
        asgi_request(app)
    init(None)
    asgi_request(plain)
    assert seen == [ADA, BOB, None]


def test_options_of_init_and_middleware_join() -> None:
    """An option that the middleware leaves out comes from init()."""
    seen: list[User | None] = []
    init(None, request_data=RequestData(include_ip=True))
    app = UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())), resolver=resolve_by_header
    )
    asgi_request(app, scope_of(x_user="7"))
    assert seen == [User(id=7, ip_address="203.0.113.9")]


# --- what is left behind ------------------------------------------------------------------------


def test_a_request_leaves_no_reference_cycle() -> None:
    """Once a request has ended, nothing of it waits for the collector."""
    app = UserContextMiddleware(
        plain_asgi_app(resolve_user),
        resolver=resolve_by_header,
        request_data=RequestData(include_ip=True),
    )

    async def run() -> int:
        await asgi_call(app, scope_of(x_user="7"))
        gc.collect()
        gc.disable()
        try:
            scope = scope_of(x_user="7")
            await app(scope, _receive, _send)
            del scope
            return gc.collect()
        finally:
            gc.enable()

    # Threads of other tests' libraries leave cycles of their own now and then; a request's would
    # be there each time.
    assert min(asyncio.run(run()) for _ in range(3)) == 0


async def _receive() -> dict[str, Any]:
    return {"type": "http.request"}


async def _send(_message: Any) -> None:
    return None
