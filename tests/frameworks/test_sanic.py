"""Sanic: every request of an app has its user, and what Sanic answers itself is reported."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sanic")
pytest.importorskip("httpx")
pytest.importorskip("websockets")

import httpx
from sanic import Request, Sanic, Websocket
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.response import HTTPResponse, empty, text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import usercontext
from tests.driver import asgi_call, scope_of
from usercontext import (
    ConfigurationError,
    RequestData,
    bind,
    capture_exception,
    capture_message,
    get_user,
    set_user,
)
from usercontext.asgi import UserContextMiddleware
from usercontext.frameworks.sanic import UserContext, request_user
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ADA = {"x-user": "ada"}
seen: list[Any] = []
numbers = itertools.count()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sanic rewrites its own methods as a server starts, which only this lets it do again.
    monkeypatch.setattr(Sanic, "test_mode", True)
    seen.clear()


def of_header(request: Request) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = request.headers.get("x-user")
    return {"id": name} if name else None


def who(**how: Any) -> str | None:
    """Return the id of the current user."""
    user = get_user(**how)
    return None if user is None else user.id


async def me(request: Request) -> HTTPResponse:
    """Say who the user is."""
    return text(str(who()))


async def login(request: Request) -> HTTPResponse:
    """Set the user."""
    set_user({"id": "eve"})
    return text(str(who()))


async def fail(request: Request) -> HTTPResponse:
    """Fail, as nothing of the app expects."""
    raise LookupError("no such thing")


def bare_app(*handlers: Any) -> Sanic[Any, Any]:
    """Make an app that serves each handler under its name; no two apps may be named alike."""
    app: Sanic[Any, Any] = Sanic(f"Shop{next(numbers)}")
    for handler in (me, login, fail, *handlers):
        app.add_route(handler, f"/{handler.__name__}", methods=["GET", "POST"])
    return app


def make_app(*handlers: Any, **options: Any) -> Sanic[Any, Any]:
    """Make an app with our extension."""
    app = bare_app(*handlers)
    UserContext(app, **({"resolver": of_header} | options))
    return app


@contextlib.asynccontextmanager
async def served(app: Sanic[Any, Any]) -> AsyncIterator[int]:
    """Serve an app by Sanic's own server, on a free port of this machine."""
    listening = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(sock=listening, return_asyncio_server=True)
    await server.startup()
    await server.before_start()
    await server.after_start()
    await server.start_serving()
    try:
        yield listening.getsockname()[1]
    finally:
        await server.before_stop()
        await server.close()
        for connection in list(server.connections):
            connection.close()
        await server.after_stop()


def talk(app: Sanic[Any, Any], conversation: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Have a conversation with an app that is served."""

    async def with_client() -> Any:
        async with (
            served(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            return await conversation(client)

    return asyncio.run(with_client())


def ask(app: Sanic[Any, Any], *paths: str, headers: dict[str, str] | None = None) -> list[str]:
    """Send requests, one after the other on one connection; return the answers."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get(path, headers=headers)).text for path in paths]

    answers: list[str] = talk(app, conversation)
    return answers


def users(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return whom each report names."""
    return [event.get("user") for event in recorder.events]


def test_an_unhandled_error_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """Sanic answers with a 500 itself: the report goes out, once, unhandled, with its request."""
    ask(make_app(), "/fail?page=2", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["request"]["url"].endswith("/fail")


def test_the_request_is_described_as_it_was_sent(usercontext_recorder: RecordingClient) -> None:
    """What RequestData allows is reported of Sanic's request, and the address of its client."""
    flags = RequestData(include_ip=True, include_query_string=True, include_headers=True)
    ask(make_app(request_data=flags), "/fail?page=2", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "ip_address": "127.0.0.1"}
    assert event["request"]["method"] == "GET"
    assert event["request"]["query_string"] == "page=2"
    assert event["request"]["headers"]["X-User"] == "ada"


def test_an_answer_that_is_raised_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """What Sanic keeps quiet about is how handlers say what to answer."""

    async def unavailable(request: Request) -> HTTPResponse:
        raise ServiceUnavailable("come back later")

    async def teapot(request: Request) -> HTTPResponse:
        raise SanicException("short and stout", status_code=418)

    ask(make_app(unavailable, teapot), "/unavailable", "/teapot", "/missing", headers=ADA)
    assert usercontext_recorder.events == []


def test_a_server_error_of_sanics_own_is_reported(usercontext_recorder: RecordingClient) -> None:
    """A SanicException that Sanic logs as an error is one."""

    async def broken(request: Request) -> HTTPResponse:
        raise SanicException("cannot go on")

    ask(make_app(broken), "/broken", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_that_the_app_handles_is_its_own_to_report(
    usercontext_recorder: RecordingClient,
) -> None:
    """An exception handler sees the user, and what it reports itself is all."""
    app = make_app()

    @app.exception(LookupError)
    async def answer(request: Request, error: LookupError) -> HTTPResponse:
        capture_exception(error)
        return text(str(who()), status=409)

    assert ask(app, "/fail", headers=ADA) == ["ada"]
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


def test_nobody_follows_somebody_on_a_connection() -> None:
    """All requests of a connection run in one task, and an anonymous one is nobody's."""
    assert ask(make_app(), "/login", "/me", "/login", "/me") == ["eve", "None", "eve", "None"]


def test_the_task_of_a_connection_is_left_as_it_was() -> None:
    """What Sanic does between the requests of a connection sees none of their users."""
    app = make_app()

    @app.signal("http.lifecycle.read_head")
    async def look(head: bytes) -> None:
        seen.append(who())

    ask(app, "/login", "/login")
    assert seen == [None, None]


def test_requests_at_once_have_their_own_users() -> None:
    """Sixteen requests that wait for each other each see their own user."""

    async def meet(request: Request) -> HTTPResponse:
        set_user({"id": request.args.get("user")})
        await gate.wait()
        return await me(request)

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        answers = await asyncio.gather(*(client.get(f"/meet?user={n}") for n in range(16)))
        return [answer.text for answer in answers]

    gate = asyncio.Barrier(16)
    assert talk(make_app(meet), conversation) == [str(n) for n in range(16)]


def test_middlewares_and_hooks_see_the_user() -> None:
    """What the handler set is seen where the response goes out, and found by its request."""
    app = make_app()

    @app.on_response
    async def look(request: Request, response: HTTPResponse) -> None:
        seen.extend([who(), who(request=request)])

    ask(app, "/login")
    assert seen == ["eve", "eve"]


def test_a_stream_runs_inside_its_request(usercontext_recorder: RecordingClient) -> None:
    """A stream has its user long after the response started."""

    async def stream(request: Request) -> None:
        response: Any = await request.respond()
        await response.send("x")
        set_user({"id": "bob"})
        capture_message("half way")
        await response.send(str(who()))

    assert ask(make_app(stream), "/stream", headers=ADA) == ["xbob"]
    assert users(usercontext_recorder) == [{"id": "bob"}]


@pytest.mark.parametrize("handled", [True, False])
def test_an_error_in_a_stream_names_its_user(
    handled: bool, usercontext_recorder: RecordingClient
) -> None:
    """A stream that fails half way is reported, also where a handler can answer no more."""

    async def stream(request: Request) -> None:
        response: Any = await request.respond()
        await response.send("x")
        raise LookupError("half way")

    app = make_app(stream)
    if handled:
        app.error_handler.add(LookupError, lambda request, error: text("too late"))
    ask(app, "/stream", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_a_client_that_goes_away_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """A stream whose client leaves in the middle ends without a report, still with its user."""

    async def stream(request: Request) -> None:
        response: Any = await request.respond()
        try:
            while True:
                await response.send("x" * 65536)
                await asyncio.sleep(0)
        finally:
            seen.append(who())
            over.set()

    async def conversation(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/stream", headers=ADA) as answer:
            await anext(answer.aiter_raw())
        async with asyncio.timeout(10):
            await over.wait()

    over = asyncio.Event()
    talk(make_app(stream), conversation)
    assert seen == ["ada"]
    assert usercontext_recorder.events == []


def test_a_websocket_changes_its_user(usercontext_recorder: RecordingClient) -> None:
    """A websocket's user is its own, may change, and is named when its handler fails."""

    async def chat(request: Request, socket: Websocket) -> None:
        async for message in socket:
            await socket.send(str(who()))
            set_user({"id": message})
            if message == "boom":
                raise LookupError("boom")

    async def conversation(client: httpx.AsyncClient) -> list[Any]:
        url = f"ws://127.0.0.1:{client.base_url.port}/chat"
        answers = []
        async with connect(url, additional_headers=ADA) as socket:
            for message in ("bob", "eve", "boom"):
                await socket.send(message)
                answers.append(await socket.recv())
            with contextlib.suppress(ConnectionClosed):
                await socket.recv()
        return answers

    app = make_app()
    app.add_websocket_route(chat, "/chat")
    assert talk(app, conversation) == ["ada", "bob", "eve"]
    assert users(usercontext_recorder) == [{"id": "boom"}]


def test_threads_and_later_work() -> None:
    """Threads see the user where the context travels, or with `bind`; later work still does."""

    async def work(request: Request) -> HTTPResponse:
        set_user({"id": "eve"})
        loop = asyncio.get_running_loop()
        seen.append(await asyncio.to_thread(who))
        seen.append(await loop.run_in_executor(None, who))
        seen.append(await loop.run_in_executor(None, bind(who)))
        tasks.append(loop.create_task(after()))
        loop.call_later(0, lambda: (seen.append(who()), later.set()))
        return empty()

    async def after() -> None:
        await answered.wait()
        seen.append(who())
        over.set()

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.get("/work")
        await later.wait()
        answered.set()
        await over.wait()

    answered, later, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    talk(make_app(work), conversation)
    assert seen == ["eve", None, "eve", "eve", "eve"]


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """Reports of a request wait for an async resolver until the request's end."""

    async def resolver(request: Request) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    async def handled(request: Request) -> HTTPResponse:
        capture_message("in the handler")
        return empty()

    ask(make_app(handled, resolver=resolver), "/handled", "/fail", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}] * 2


def test_a_report_is_complete_when_the_response_starts(
    usercontext_recorder: RecordingClient,
) -> None:
    """A client that leaves with its answer, and so cancels the rest, changes no report."""

    async def resolver(request: Request) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    async def stream(request: Request) -> None:
        capture_message("before the stream")
        await request.respond()
        seen.extend(users(usercontext_recorder))

    ask(make_app(stream, resolver=resolver), "/stream", headers=ADA)
    assert seen == [{"id": "ada"}]


def test_nothing_is_resolved_for_a_request_that_reports_nothing() -> None:
    """The resolver is called when a report needs it, and not before."""

    async def idle(request: Request) -> HTTPResponse:
        return empty()

    ask(make_app(idle, resolver=seen.append), "/idle")
    assert seen == []


def test_request_user_reads_what_the_app_found(usercontext_recorder: RecordingClient) -> None:
    """The ready resolver takes `request.ctx.user`, and of a mapping only what names somebody."""

    async def authenticated(request: Request) -> HTTPResponse:
        request.ctx.user = {"id": 7, "password_hash": "x"}
        capture_message("hello")
        return empty()

    ask(make_app(authenticated, resolver=request_user), "/authenticated", "/fail")
    assert users(usercontext_recorder) == [{"id": "7"}, None]


def test_clients_that_push_learn_of_the_user_before_a_stream_starts() -> None:
    """Who records every request is handed its user when the response starts, and no later."""
    recorder = RecordingClient(recording=True)

    async def stream(request: Request) -> None:
        response: Any = await request.respond()
        seen.extend(recorder.users)
        await response.send("x")

    ask(make_app(stream, clients=[recorder]), "/stream", headers=ADA)
    assert seen[-1] == {"id": "ada"}


def test_reports_are_sent_when_the_app_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the server flushes what waits for the built-in client."""
    recorder = RecordingClient()
    monkeypatch.setattr(recorder, "flush", lambda timeout: bool(seen.append(timeout)) or True)
    usercontext.init(client=recorder)
    ask(make_app(), "/me")
    assert seen == [2.0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_asgi_server_runs_the_app_as_well(
    wrapped: bool, usercontext_recorder: RecordingClient
) -> None:
    """Over ASGI the resolver gets Sanic's request too, in our middleware or in one further out."""

    def resolver(request: Request) -> dict[str, str]:
        return {"id": request.app.name + request.headers["x-user"]}

    app: Any = make_app(resolver=resolver, request_data=RequestData(include_ip=True))
    served = UserContextMiddleware(app) if wrapped else app
    scope = {**scope_of(x_user="ada"), "path": "/fail", "raw_path": b"/fail"}

    async def call() -> None:
        app.asgi = True
        await app._startup()
        await asgi_call(served, scope)

    asyncio.run(call())
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": f"{app.name}ada", "ip_address": "203.0.113.9"}


@pytest.mark.parametrize("wrong", ["no app", "twice", "started"])
def test_a_wrong_app_names_the_fix(wrong: str) -> None:
    """What cannot work fails where it is written, and says what to write instead."""
    app: Any = object() if wrong == "no app" else bare_app()
    if wrong == "twice":
        UserContext(app)
    if wrong == "started":
        app.state.is_started = True
    with pytest.raises(ConfigurationError, match=r"UserContext\(app\)|keep one"):
        UserContext(app)


def test_an_app_factory_initialises_later() -> None:
    """One UserContext serves several apps, and a wrong option raises before there is any."""
    context = UserContext(resolver=of_header)
    for _ in range(2):
        app = bare_app()
        context.init_app(app)
        assert ask(app, "/me", headers=ADA) == ["ada"]
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=None)
