"""Litestar: errors that it answers are reported, and authentication names their user.

What a test says holds for an app that a server has started, and for one that nobody has told.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("litestar")
pytest.importorskip("httpx")

import httpx
from litestar import Litestar, Request, Response, WebSocket, asgi, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.events import listener
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    NotAuthorizedException,
    WebSocketDisconnect,
    WebSocketException,
)
from litestar.middleware import (
    AbstractAuthenticationMiddleware,
    ASGIMiddleware,
    AuthenticationResult,
)
from litestar.response import Stream
from litestar.testing import TestClient

from usercontext import User, get_user, resolve_user, set_user
from usercontext.asgi import UserContextMiddleware
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.litestar import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from usercontext.testing import RecordingClient

ADA = {"x-user": "ada"}


@pytest.fixture(params=[True, False], ids=["started", "not started"])
def send(request: pytest.FixtureRequest) -> Any:
    """Send one request to an app, started or not."""

    async def conversation(app: Any, path: str, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.lifespan() if request.param else nullcontext(),
            httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client,
        ):
            return await client.get(path, headers=headers)

    return lambda app, path, **headers: asyncio.run(conversation(app, path, headers))


@dataclass
class Account:
    """A model with a field that must never leave."""

    id: str
    email: str
    password_hash: str = "secret"


class Authentication(AbstractAuthenticationMiddleware):
    """Trusts a header, and refuses who has none."""

    async def authenticate_request(self, connection: Any) -> AuthenticationResult:
        name = connection.headers.get("x-user")
        if name is None:
            raise NotAuthorizedException
        return AuthenticationResult(user=Account(name, f"{name}@shop.example"), auth=None)


class Failing(ASGIMiddleware):
    """Fails before the handler is called."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle(self, scope: Any, receive: Any, send: Any, next_app: Any) -> None:
        raise self.error


def of_header(connection: Any) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = connection.headers.get("x-user")
    return {"id": name} if name else None


def seen(**where: Any) -> str | None:
    """Say who is seen."""
    user = get_user(**where)
    return None if user is None else user.id


def routes() -> list[Any]:
    """Make a route that fails and one that says who is seen; handlers remember their app."""

    @get("/boom", sync_to_thread=False)
    def boom() -> None:
        raise LookupError("no such thing")

    @get("/me", sync_to_thread=False)
    def me() -> dict[str, str | None]:
        return {"id": seen()}

    return [boom, me]


def make_app(*handlers: Any, plugin: UserContext | None = None, **options: Any) -> Litestar:
    """Make an app with a route that fails."""
    plugins = [plugin or UserContext(resolver=of_header)]
    return Litestar([*routes(), *handlers], plugins=plugins, logging_config=None, **options)


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return whom each report names."""
    return [event.get("user", {}).get("id") for event in recorder.events]


# --- errors ----------------------------------------------------------------------------------


def test_a_swallowed_error_is_reported_with_its_user(
    send: Any, usercontext_recorder: RecordingClient
) -> None:
    """Litestar answers with a 500 itself: the report still goes out, once, unhandled."""
    assert send(make_app(), "/boom", **ADA).status_code == 500
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["request"]["url"] == "http://shop.example/boom"


@pytest.mark.parametrize("key", [500, Exception, LookupError])
def test_the_page_of_a_500_knows_the_user(
    send: Any, usercontext_recorder: RecordingClient, key: Any
) -> None:
    """An app that makes the page itself has not mended the error: it is reported."""

    def handler(request: Any, error: Exception) -> Response[Any]:
        return Response([seen(), seen(request=request), seen(error=error)], status_code=500)

    app = make_app(exception_handlers={key: handler})
    assert send(app, "/boom", **ADA).json() == ["ada"] * 3
    assert reported(usercontext_recorder) == ["ada"]


def test_a_handled_error_is_not_reported(send: Any, usercontext_recorder: RecordingClient) -> None:
    """A handler sees the user, and what it answers is the app's own."""

    def handler(request: Any, error: Exception) -> Response[Any]:
        return Response({"id": seen()}, status_code=409)

    answer = send(make_app(exception_handlers={LookupError: handler}), "/boom", **ADA)
    assert (answer.status_code, answer.json()) == (409, {"id": "ada"})
    assert usercontext_recorder.events == []


@pytest.mark.parametrize(
    ("error", "reports"),
    [
        (HTTPException(status_code=404), []),
        (HTTPException(status_code=503), []),
        (InternalServerException(), ["ada"]),
    ],
    ids=["404", "503", "500"],
)
def test_an_http_exception_is_an_answer(
    send: Any, usercontext_recorder: RecordingClient, error: Exception, reports: list[str]
) -> None:
    """Only an Internal Server Error is an error, which Litestar raises for faults of an app."""

    @get("/", sync_to_thread=False)
    def answer() -> None:
        raise error

    send(make_app(answer), "/", **ADA)
    assert reported(usercontext_recorder) == reports


@pytest.mark.parametrize("error", [LookupError(), InternalServerException()], ids=["own", "500"])
def test_an_error_of_a_middleware_is_reported(
    send: Any, usercontext_recorder: RecordingClient, error: Exception
) -> None:
    """It has a user and a request as any other."""
    assert send(make_app(middleware=[Failing(error)]), "/me", **ADA).status_code == 500
    (event,) = usercontext_recorder.events
    assert (event["user"], event["request"]["method"]) == ({"id": "ada"}, "GET")


def test_who_is_refused_is_not_reported(send: Any, usercontext_recorder: RecordingClient) -> None:
    """The 401 of an authentication middleware is an answer."""
    assert send(make_app(middleware=[Authentication]), "/boom").status_code == 401
    assert usercontext_recorder.events == []


def test_an_error_in_a_stream_is_reported(send: Any, usercontext_recorder: RecordingClient) -> None:
    """Litestar gives up once the response has started: the report goes out all the same."""
    found: list[str | None] = []

    @get("/stream")
    async def stream() -> Stream:
        async def chunks() -> AsyncIterator[bytes]:
            found.append(seen())
            yield b"x"
            raise LookupError("no such thing")

        return Stream(chunks())

    send(make_app(stream), "/stream", **ADA)
    (event,) = usercontext_recorder.events
    assert (event["user"], found) == ({"id": "ada"}, ["ada"])
    assert event["exception"]["values"][0]["type"] == "LookupError"


def test_an_async_resolver_names_a_swallowed_error(
    send: Any, usercontext_recorder: RecordingClient
) -> None:
    """It is awaited before the answer goes out."""

    async def resolver(connection: Any) -> Any:
        await asyncio.sleep(0)
        return of_header(connection)

    send(make_app(plugin=UserContext(resolver=resolver)), "/boom", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_a_failing_handler_of_errors_is_reported(
    send: Any, usercontext_recorder: RecordingClient
) -> None:
    """The error that could not be answered, and never both as handled."""

    def handler(request: Any, error: Exception) -> Response[Any]:
        raise ZeroDivisionError

    app = make_app(exception_handlers={LookupError: handler})
    assert send(app, "/boom", **ADA).status_code == 500
    types = [event["exception"]["values"][-1]["type"] for event in usercontext_recorder.events]
    assert types == ["ZeroDivisionError"]


@pytest.mark.parametrize(
    ("error", "reports"),
    [
        (LookupError("no such thing"), ["ada"]),
        (WebSocketException(detail="bye"), []),
        (NotAuthorizedException(), []),
        (InternalServerException(), ["ada"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_of_a_websocket_is_reported(
    usercontext_recorder: RecordingClient, error: Exception, reports: list[str]
) -> None:
    """Litestar closes the websocket itself; what the app closes is not an error."""

    @websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(str(seen()))
        raise error

    with (
        TestClient(make_app(socket)) as client,
        client.websocket_connect("/socket", headers=ADA) as connection,
    ):
        assert connection.receive_text() == "ada"
        with pytest.raises(WebSocketDisconnect):
            connection.receive()
    assert reported(usercontext_recorder) == reports


def test_an_error_of_a_background_task_is_reported(
    send: Any, usercontext_recorder: RecordingClient
) -> None:
    """It runs after the response, and names the user whose request started it."""

    def task() -> None:
        raise LookupError(str(seen()))

    @get("/task")
    async def start() -> Response[None]:
        return Response(None, background=BackgroundTask(task))

    assert send(make_app(start), "/task", **ADA).status_code == 200
    assert reported(usercontext_recorder) == ["ada"]


# --- the user --------------------------------------------------------------------------------


# `NamedDependency`, which it wants from 2.2x on, is not there in the oldest that we support.
@pytest.mark.filterwarnings("ignore:.*Inferred dependency field")
def test_threads_and_dependencies_see_and_set_the_user(send: Any) -> None:
    """`sync_to_thread` handlers and dependencies share the user of their request."""
    found: list[str | None] = []

    def dependency() -> Iterator[str]:
        set_user({"id": f"after {seen()}"})
        yield "value"
        found.append(seen())

    @get("/thread", sync_to_thread=True, dependencies={"value": Provide(dependency)})
    def handler(value: str) -> dict[str, str | None]:
        before = seen()
        set_user({"id": "last"})
        return {"id": before}

    assert send(make_app(handler), "/thread", **ADA).json() == {"id": "after ada"}
    assert found == ["last"]


def test_hooks_see_the_user(send: Any) -> None:
    """Those before and after the handler, and after the response."""
    found: list[str | None] = []

    async def look(*_: Any) -> None:
        found.append(seen())

    async def look_at(response: Any) -> Any:
        found.append(seen())
        return response

    app = make_app(before_request=look, after_request=look_at, after_response=look)
    send(app, "/me", **ADA)
    assert found == ["ada"] * 3


def test_listeners_have_no_user() -> None:
    """They run in a task of the app's, which is nobody's request."""
    found: list[str | None] = []
    heard = threading.Event()

    @listener("order")
    async def on_order() -> None:
        found.append(seen())
        heard.set()

    @get("/order")
    async def order(request: Request[Any, Any, Any]) -> str | None:
        request.app.emit("order")
        return seen()

    with TestClient(make_app(order, listeners=[on_order])) as client:
        assert client.get("/order", headers=ADA).text == "ada"
        assert heard.wait(10)
    assert found == [None]


def test_the_resolver_gets_litestars_connection(send: Any) -> None:
    """Starlette need not be installed."""
    kinds: list[type] = []

    def resolver(connection: Any) -> None:
        kinds.append(type(connection))

    send(make_app(plugin=UserContext(resolver=resolver)), "/me")
    assert kinds == [ASGIConnection]


def test_nothing_is_resolved_for_a_request_that_reports_nothing(send: Any) -> None:
    """A request that answers, or is refused, costs no question."""
    calls: list[object] = []

    @get("/idle")
    async def idle() -> str:
        return "ok"

    app = make_app(idle, plugin=UserContext(resolver=calls.append))
    assert [send(app, path).status_code for path in ("/idle", "/nowhere")] == [200, 404]
    assert calls == []


def test_what_litestar_answers_before_routing_has_a_user(send: Any) -> None:
    """The middleware is around all of the app, 404s included, whether or not it is started."""

    def on_404(request: Any, error: Exception) -> Response[Any]:
        return Response({"id": seen()}, status_code=404)

    app = make_app(exception_handlers={404: on_404})
    assert send(app, "/nowhere", **ADA).json() == {"id": "ada"}


def test_an_app_without_routes_is_served_once_it_starts() -> None:
    """It has no route by which the plugin could learn of it before."""
    app = Litestar(plugins=[UserContext(resolver=of_header)], openapi_config=None)

    @get("/late")
    async def late() -> dict[str, Any]:
        return {"id": seen()}

    with TestClient(app) as client:
        app.register(late)
        assert client.get("/late", headers=ADA).json() == {"id": "ada"}


def test_an_app_starts_several_times(usercontext_recorder: RecordingClient) -> None:
    """As it does in tests: one report each, and one middleware around it."""
    app = make_app()
    around = []
    for _ in range(3):
        with TestClient(app, raise_server_exceptions=False) as client:
            client.get("/boom", headers=ADA)
        around.append(app.asgi_handler)
    assert reported(usercontext_recorder) == ["ada"] * 3
    assert all(one is around[0] for one in around)


def test_the_schema_stays_the_same() -> None:
    """The plugin does not show in the OpenAPI document."""
    plain = Litestar(routes(), logging_config=None)
    assert make_app().openapi_schema.to_schema() == plain.openapi_schema.to_schema()


# --- apps in apps ----------------------------------------------------------------------------


def test_a_mounted_app_shares_the_user(send: Any, usercontext_recorder: RecordingClient) -> None:
    """An ASGI app inside of Litestar sees the user, and its error is reported once."""

    @asgi("/mounted", is_mount=True, copy_scope=False)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError(str(seen()))

    send(make_app(mounted), "/mounted/here", **ADA)
    (event,) = usercontext_recorder.events
    assert event["exception"]["values"][-1]["value"] == "ada"


def test_a_middleware_around_it_is_harmless(
    send: Any, usercontext_recorder: RecordingClient
) -> None:
    """One record, one report, and the resolver that stands inside."""
    app = make_app()
    around: Any = UserContextMiddleware(app, resolver=lambda _: {"id": "outer"})
    around.lifespan = app.lifespan
    send(around, "/boom", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


# --- authentication --------------------------------------------------------------------------


def test_authentication_names_the_user(send: Any, usercontext_recorder: RecordingClient) -> None:
    """By the identity alone: neither the hash of a password nor anything else leaves."""
    app = make_app(plugin=UserContext(resolver=request_user), middleware=[Authentication])
    send(app, "/boom", **ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "email": "ada@shop.example"}


def test_only_the_identity_of_a_mapping_is_taken() -> None:
    """A row out of a database as `scope["user"]` keeps its secrets."""
    row = {"id": 7, "email": "ada@shop.example", "password_hash": "secret", "plan": "gold"}
    scope: Any = {"type": "http", "user": row, "headers": []}
    assert User.of(request_user(ASGIConnection(scope))) == User(id=7, email="ada@shop.example")


def test_who_asks_before_authentication_leaves_the_question_open(send: Any) -> None:
    """A middleware that looks too early sees nobody, and the handler its user."""

    class Early(ASGIMiddleware):
        async def handle(self, scope: Any, receive: Any, send: Any, next_app: Any) -> None:
            assert await resolve_user() is None
            await next_app(scope, receive, send)

    plugin = UserContext(resolver=request_user)
    app = make_app(plugin=plugin, middleware=[Early(), Authentication])
    assert send(app, "/me", **ADA).json() == {"id": "ada"}


def test_jwt_authentication_names_the_user(send: Any) -> None:
    """Litestar's own JWT backend puts its user where the resolver looks."""
    jwt = pytest.importorskip("litestar.security.jwt", exc_type=ImportError)

    async def retrieve(token: Any, connection: Any) -> Account:
        return Account(token.sub, "")

    auth = jwt.JWTAuth[Account](retrieve_user_handler=retrieve, token_secret="x" * 32)
    app = make_app(plugin=UserContext(resolver=request_user), on_app_init=[auth.on_app_init])
    token = auth.create_token(identifier="ada")
    assert send(app, "/me", authorization=f"Bearer {token}").json() == {"id": "ada"}


# --- errors that name the fix ----------------------------------------------------------------


def test_a_second_context_is_refused() -> None:
    """Only one of them could be meant."""
    with pytest.raises(ConfigurationError, match="give all options to one"):
        Litestar([], plugins=[UserContext(), UserContext()])


def test_a_wrong_option_is_refused_at_once() -> None:
    """Where the plugin is made, before there is an app."""
    with pytest.raises(ConfigurationError, match="resolver must be a function"):
        UserContext(resolver=3)  # type: ignore[arg-type]
