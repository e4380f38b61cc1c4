"""Starlette: every handler of an app knows its user, and authentication names them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    SimpleUser,
)
from starlette.background import BackgroundTask
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from usercontext import (
    User,
    capture_exception,
    capture_message,
    get_user,
    resolve_user,
    set_user,
)
from usercontext.asgi import UserContextMiddleware
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.starlette import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.websockets import WebSocket

    from usercontext.testing import RecordingClient

ADA = {"x-user": "ada"}


def of_header(connection: Any) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = connection.headers.get("x-user")
    return {"id": name} if name else None


class Backend(AuthenticationBackend):
    """Trusts a header."""

    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


async def boom(request: Request) -> JSONResponse:
    """Fail."""
    raise LookupError("no such thing")


async def report(request: Request) -> JSONResponse:
    """Report a message; say who is seen."""
    capture_message("hello")
    return JSONResponse(seen())


def seen(**where: Any) -> str | None:
    """Say who is seen."""
    user = get_user(**where)
    return None if user is None else user.id or user.username


def make_app(*routes: Any, **options: Any) -> Starlette:
    """Make an app with a route that fails and one that reports."""
    return Starlette(routes=[*routes, Route("/boom", boom), Route("/report", report)], **options)


def client_of(app: Any) -> TestClient:
    """Return a client that gets the answer to an error."""
    return TestClient(app, raise_server_exceptions=False)


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return whom each report names."""
    users = [event.get("user", {}) for event in recorder.events]
    return [user.get("id") or user.get("username") for user in users]


# --- around all of the app -------------------------------------------------------------------


@pytest.mark.parametrize("key", [500, Exception])
def test_the_handler_of_a_500_knows_the_user(
    usercontext_recorder: RecordingClient, key: Any
) -> None:
    """`get_user()` works in it plainly, and the error is reported once."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(seen(), 500)

    app = make_app(exception_handlers={key: handler})
    UserContext(app, resolver=of_header)
    assert client_of(app).get("/boom", headers=ADA).json() == "ada"
    assert reported(usercontext_recorder) == ["ada"]


def test_a_sync_handler_of_a_500_knows_the_user() -> None:
    """Starlette runs it in a thread, to which the user goes along."""
    app = make_app(exception_handlers={500: lambda request, error: JSONResponse(seen(), 500)})
    UserContext(app, resolver=of_header)
    assert client_of(app).get("/boom", headers=ADA).json() == "ada"


def test_an_async_resolver_is_awaited_in_the_handler_of_a_500(
    usercontext_recorder: RecordingClient,
) -> None:
    """`await resolve_user()` gives the user there, and the report names the same."""

    async def resolver(connection: Any) -> Any:
        await asyncio.sleep(0)
        return of_header(connection)

    async def handler(request: Request, error: Exception) -> JSONResponse:
        user = await resolve_user()
        return JSONResponse(user and user.id, 500)

    app = make_app(exception_handlers={500: handler})
    UserContext(app, resolver=resolver)
    assert client_of(app).get("/boom", headers=ADA).json() == "ada"
    assert reported(usercontext_recorder) == ["ada"]


def test_what_a_handler_of_a_500_reports_is_not_reported_again(
    usercontext_recorder: RecordingClient,
) -> None:
    """An error that its handler captures is the same report."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(capture_exception(error), 500)

    app = make_app(exception_handlers={500: handler})
    UserContext(app, resolver=of_header)
    client_of(app).get("/boom", headers=ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_middlewares_may_be_added_before_and_after() -> None:
    """`add_middleware` goes on working, and what it adds knows the user."""
    found: list[str | None] = []

    class Looking:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            found.append(seen())
            await self.app(scope, receive, send)

    app = make_app()
    app.add_middleware(Looking)
    UserContext(app, resolver=of_header)
    app.add_middleware(Looking)
    client_of(app).get("/report", headers=ADA)
    assert found == ["ada", "ada"]


def test_an_app_factory_initialises_later(usercontext_recorder: RecordingClient) -> None:
    """One UserContext serves several apps."""
    context = UserContext(resolver=of_header)
    apps = [make_app(), make_app()]
    for app in apps:
        context.init_app(app)
    assert [client_of(app).get("/boom", headers=ADA).status_code for app in apps] == [500, 500]
    assert reported(usercontext_recorder) == ["ada", "ada"]


def test_the_lifespan_runs_as_before() -> None:
    """Startup and shutdown happen once, and have no user."""
    events: list[Any] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        events.append(seen())
        yield
        events.append("end")

    app = make_app(lifespan=lifespan)
    UserContext(app, resolver=of_header)
    with TestClient(app) as client:
        assert client.get("/report", headers=ADA).json() == "ada"
    assert events == [None, "end"]


def test_debug_pages_stay(usercontext_recorder: RecordingClient) -> None:
    """Starlette's traceback page is served, and the error is reported all the same."""
    app = make_app(debug=True)
    UserContext(app, resolver=of_header)
    assert "LookupError" in client_of(app).get("/boom", headers=ADA).text
    assert reported(usercontext_recorder) == ["ada"]


def test_a_background_task_and_its_error_have_the_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """A task after the response sees the user, and its error names them."""
    found: list[str | None] = []

    def task() -> None:
        found.append(seen())
        raise LookupError("no such thing")

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(None, background=BackgroundTask(task))

    app = make_app(Route("/task", endpoint))
    UserContext(app, resolver=of_header)
    assert client_of(app).get("/task", headers=ADA).status_code == 200
    assert (found, reported(usercontext_recorder)) == (["ada"], ["ada"])


def test_a_stream_and_its_error_have_the_user(usercontext_recorder: RecordingClient) -> None:
    """A body that fails in its middle is reported with its user."""
    found: list[str | None] = []

    async def chunks() -> AsyncIterator[str]:
        found.append(seen())
        yield "x"
        raise LookupError("no such thing")

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    app = make_app(Route("/stream", endpoint))
    UserContext(app, resolver=of_header)
    client_of(app).get("/stream", headers=ADA)
    assert (found, reported(usercontext_recorder)) == (["ada"], ["ada"])


def test_a_websocket_has_its_user(usercontext_recorder: RecordingClient) -> None:
    """An error that ends a websocket is reported with its user, once."""

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        found.append(seen())
        await websocket.receive_text()
        raise LookupError("no such thing")

    found: list[str | None] = []
    app = make_app(WebSocketRoute("/socket", endpoint))
    UserContext(app, resolver=of_header)
    socket = TestClient(app).websocket_connect("/socket", headers=ADA)
    with pytest.raises(LookupError), socket:
        socket.send_text("go on")
    assert found == ["ada"]
    assert reported(usercontext_recorder) == ["ada"]


# --- apps in apps ----------------------------------------------------------------------------


def test_a_mounted_app_shares_the_user(usercontext_recorder: RecordingClient) -> None:
    """Also one with handlers of its own: its 500 handler knows the user, and one report goes."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(seen(), 500)

    inner = make_app(exception_handlers={500: handler})
    app = make_app(Mount("/inner", inner))
    UserContext(app, resolver=of_header)
    assert client_of(app).get("/inner/boom", headers=ADA).json() == "ada"
    assert reported(usercontext_recorder) == ["ada"]


def test_a_mounted_app_may_have_a_context_of_its_own(
    usercontext_recorder: RecordingClient,
) -> None:
    """Its resolver applies inside it, the outer one elsewhere."""
    inner = make_app()
    UserContext(inner, resolver=lambda connection: {"id": "inner"})
    app = make_app(Mount("/inner", inner))
    UserContext(app, resolver=of_header)
    client = client_of(app)
    client.get("/inner/boom", headers=ADA)
    client.get("/boom", headers=ADA)
    assert reported(usercontext_recorder) == ["inner", "ada"]


def test_a_middleware_beside_it_is_harmless(usercontext_recorder: RecordingClient) -> None:
    """`add_middleware` of ours as well: one record, one report, the inner resolver."""
    app = make_app()
    UserContext(app, resolver=lambda connection: {"id": "outer"})
    app.add_middleware(UserContextMiddleware, resolver=of_header)
    client_of(app).get("/boom", headers=ADA)
    assert reported(usercontext_recorder) == ["ada"]


# --- authentication --------------------------------------------------------------------------


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours outside", "ours inside"])
def test_authentication_names_the_user(
    usercontext_recorder: RecordingClient, ours_first: bool
) -> None:
    """In either order of middlewares; who is not authenticated is nobody."""
    app = make_app()
    middlewares: list[Any] = [
        lambda: app.add_middleware(AuthenticationMiddleware, backend=Backend()),
        lambda: app.add_middleware(UserContextMiddleware, resolver=request_user),
    ]
    for add in middlewares if ours_first else reversed(middlewares):
        add()
    client = client_of(app)
    client.get("/boom", headers=ADA)
    client.get("/boom")
    assert reported(usercontext_recorder) == ["ada", None]


def test_who_asks_before_authentication_leaves_the_question_open(
    usercontext_recorder: RecordingClient,
) -> None:
    """A middleware that looks too early sees nobody, and the endpoint its user."""

    class Early:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert get_user() is None
            await self.app(scope, receive, send)

    app = make_app()
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    app.add_middleware(Early)
    UserContext(app, resolver=request_user)
    assert client_of(app).get("/report", headers=ADA).json() == "ada"


def test_a_mounted_apps_authentication_is_seen() -> None:
    """`scope["user"]` is looked at when a report needs it, wherever it was set."""
    inner = make_app()
    inner.add_middleware(AuthenticationMiddleware, backend=Backend())
    app = make_app(Mount("/inner", inner))
    UserContext(app, resolver=request_user)
    client = client_of(app)
    assert client.get("/inner/report", headers=ADA).json() == "ada"
    assert client.get("/report", headers=ADA).json() is None


def test_only_the_identity_of_a_mapping_is_taken() -> None:
    """A row out of a database as `scope["user"]` keeps its secrets."""
    row = {"id": 7, "email": "ada@shop.example", "password_hash": "x", "plan": "gold"}
    connection = Request({"type": "http", "user": row})
    assert User.of(request_user(connection)) == User(id=7, email="ada@shop.example")


# --- errors that name the fix ----------------------------------------------------------------


def test_an_app_that_has_started_is_refused() -> None:
    """Its middlewares are built: the message says where to write it."""
    app = make_app()
    client_of(app).get("/report")
    with pytest.raises(ConfigurationError, match="before its first request"):
        UserContext(app)


def test_a_second_context_is_refused() -> None:
    """Only one of them could be meant."""
    app = make_app()
    UserContext(app)
    with pytest.raises(ConfigurationError, match="keep one, and give it all options"):
        UserContext(app)


def test_another_asgi_app_is_refused() -> None:
    """What is not a Starlette app is wrapped in the middleware instead."""
    wrapped: Any = UserContextMiddleware(make_app())
    with pytest.raises(ConfigurationError, match=r"UserContextMiddleware\(app\)"):
        UserContext(wrapped)


def test_a_wrong_option_is_refused_before_there_is_an_app() -> None:
    """With an app factory the error is raised where the option stands."""
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=set_user)  # type: ignore[call-arg]
