"""aiohttp: every request has its user, in bodies that are sent later and in websockets too."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import ClientError, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

import usercontext
from usercontext import (
    ConfigurationError,
    RequestData,
    bind,
    capture_exception,
    capture_message,
    get_user,
    resolve_user,
    set_user,
    use_user,
)
from usercontext.frameworks.aiohttp import UserContextMiddleware, request_user, setup
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

ADA = {"x-user": "ada"}
seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


def of_header(request: web.Request) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = request.headers.get("x-user")
    return {"id": name} if name else None


def who(**how: Any) -> str | None:
    """Return the id of the current user."""
    user = get_user(**how)
    return None if user is None else user.id


async def me(request: web.Request) -> web.Response:
    """Say who the user is."""
    return web.Response(text=str(who()))


async def fail(request: web.Request) -> web.Response:
    """Fail, as nothing of the app expects."""
    raise LookupError("no such thing")


def make_app(*handlers: Any, **options: Any) -> web.Application:
    """Make an app that serves each handler under its name."""
    app = web.Application()
    for handler in (me, fail, *handlers):
        app.router.add_route("*", f"/{handler.__name__}", handler)
    setup(app, **({"resolver": of_header} | options))
    return app


class Server(TestServer):
    """A test server that lets handlers go on when their client has left, as servers do."""

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return await super()._make_runner(**{**options, "handler_cancellation": False})


def talk(
    app: web.Application, conversation: Callable[[TestClient[Any, Any]], Awaitable[Any]]
) -> Any:
    """Serve an app on a port of this machine for as long as a conversation with it takes."""

    async def with_client() -> Any:
        async with TestClient(Server(app)) as client:
            return await conversation(client)

    return asyncio.run(with_client())


def ask(app: web.Application, *paths: str, headers: dict[str, str] | None = None) -> list[str]:
    """Send requests, one after the other on one connection; return the answers."""

    async def conversation(client: TestClient[Any, Any]) -> list[str]:
        answers = []
        for path in paths:
            async with client.get(path, headers=headers) as answer:
                answers.append(await answer.text())
        return answers

    answers: list[str] = talk(app, conversation)
    return answers


def users(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return whom each report names."""
    return [event.get("user") for event in recorder.events]


def test_an_unhandled_error_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """Aiohttp answers with a 500 itself: the report goes out, once, unhandled, with its request."""
    ask(make_app(), "/fail?page=2", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["request"]["url"].startswith("http://127.0.0.1:")
    assert event["request"]["url"].endswith("/fail")


def test_the_request_is_described_as_it_was_sent(usercontext_recorder: RecordingClient) -> None:
    """What RequestData allows is reported of aiohttp's request, and the address of its client."""
    flags = RequestData(include_ip=True, include_query_string=True, include_headers=True)
    ask(make_app(request_data=flags), "/fail?page=2&name=%C3%A9", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "ip_address": "127.0.0.1"}
    assert event["request"]["method"] == "GET"
    assert event["request"]["query_string"] == "page=2&name=%C3%A9"
    assert event["request"]["headers"]["X-User"] == "ada"


def test_an_answer_that_is_raised_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """An HTTPException is how handlers say what to answer, whatever its status."""

    async def forbidden(request: web.Request) -> web.Response:
        raise web.HTTPForbidden

    async def unavailable(request: web.Request) -> web.Response:
        raise web.HTTPServiceUnavailable

    ask(make_app(forbidden, unavailable), "/forbidden", "/unavailable", "/missing", headers=ADA)
    assert usercontext_recorder.events == []


def test_nobody_follows_somebody_on_a_connection() -> None:
    """An anonymous request behind one that set its user is nobody's."""

    async def login(request: web.Request) -> web.Response:
        set_user({"id": "eve"})
        return await me(request)

    assert ask(make_app(login), "/login", "/me", "/login", "/me") == ["eve", "None", "eve", "None"]


def test_requests_at_once_have_their_own_users() -> None:
    """Sixteen requests that wait for each other each see their own user."""

    async def meet(request: web.Request) -> web.Response:
        set_user({"id": request.query["user"]})
        await gate.wait()
        return await me(request)

    async def conversation(client: TestClient[Any, Any]) -> list[str]:
        answers = await asyncio.gather(*(client.get(f"/meet?user={n}") for n in range(16)))
        return [await answer.text() for answer in answers]

    gate = asyncio.Barrier(16)
    assert talk(make_app(meet), conversation) == [str(n) for n in range(16)]


def test_a_lazy_body_runs_inside_its_request(usercontext_recorder: RecordingClient) -> None:
    """An async generator is read after the handler returned, and still has its user."""

    async def stream(request: web.Request) -> web.Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            set_user({"id": "bob"})
            capture_message("half way")
            yield str(who()).encode()

        return web.Response(body=chunks())

    assert ask(make_app(stream), "/stream", headers=ADA) == ["xbob"]
    assert users(usercontext_recorder) == [{"id": "bob"}]


def test_an_error_in_a_lazy_body_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """A body that fails half way is reported once, although no response can say so."""

    async def stream(request: web.Request) -> web.Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            raise LookupError("half way")

        return web.Response(body=chunks())

    with contextlib.suppress(ClientError):
        ask(make_app(stream), "/stream", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}]


@pytest.mark.parametrize("lazy", [True, False])
def test_a_client_that_goes_away_is_no_error(
    lazy: bool, usercontext_recorder: RecordingClient
) -> None:
    """A stream whose client leaves in the middle ends without a report, whoever sends it."""
    chunk = b"x" * 65536

    async def stream(request: web.Request) -> web.StreamResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield chunk
                    await asyncio.sleep(0)
            finally:
                seen.append(who())
                over.set()

        if lazy:
            return web.Response(body=chunks())
        response = web.StreamResponse()
        await response.prepare(request)
        async with contextlib.aclosing(chunks()) as body:
            async for data in body:
                await response.write(data)
        return response

    async def conversation(client: TestClient[Any, Any]) -> None:
        answer = await client.get("/stream", headers=ADA)
        await answer.content.readexactly(10)
        answer.close()
        async with asyncio.timeout(10):
            await over.wait()

    over = asyncio.Event()
    talk(make_app(stream), conversation)
    assert usercontext_recorder.events == []


def test_a_refused_connection_of_the_apps_own_is_an_error(
    usercontext_recorder: RecordingClient,
) -> None:
    """Only the news that this request's client has gone is left out, no other ConnectionError."""

    async def upstream(request: web.Request) -> web.Response:
        raise ConnectionRefusedError("the database is down")

    ask(make_app(upstream), "/upstream", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_middlewares_inside_see_the_user_and_outside_find_it() -> None:
    """What the handler set is seen by the app's middlewares; further out the request knows it."""

    @web.middleware
    async def inner(request: web.Request, handler: Any) -> Any:
        response = await handler(request)
        seen.append(who())
        return response

    @web.middleware
    async def outer(request: web.Request, handler: Any) -> Any:
        response = await handler(request)
        seen.extend([who(), who(request=request)])
        return response

    async def login(request: web.Request) -> web.Response:
        set_user({"id": "eve"})
        return await me(request)

    app = web.Application(middlewares=[outer, UserContextMiddleware(), inner])
    app.router.add_get("/login", login)
    ask(app, "/login")
    assert seen == ["eve", None, "eve"]


def test_a_mounted_app_has_its_own_users(usercontext_recorder: RecordingClient) -> None:
    """Options of an app that is added to another apply inside; the request stays one."""
    inside = make_app(resolver=lambda request: {"id": f"inner {request.headers['x-user']}"})
    app = make_app()
    app.add_subapp("/shop", inside)
    assert ask(app, "/me", "/shop/me", "/shop/fail", headers=ADA)[:2] == ["ada", "inner ada"]
    assert users(usercontext_recorder) == [{"id": "inner ada"}]


def test_a_websocket_changes_its_user(usercontext_recorder: RecordingClient) -> None:
    """A websocket's user is its own, may change, and is named when its handler fails."""

    async def chat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(str(who()))
            set_user({"id": message.data})
            if message.data == "boom":
                raise LookupError("boom")
        return socket

    async def conversation(client: TestClient[Any, Any]) -> list[str]:
        async with client.ws_connect("/chat", headers=ADA) as socket:
            answers = []
            for text in ("bob", "eve", "boom"):
                await socket.send_str(text)
                answers.append(await socket.receive_str())
            await socket.receive()
            return answers

    assert talk(make_app(chat), conversation) == ["ada", "bob", "eve"]
    assert users(usercontext_recorder) == [{"id": "boom"}]


def test_threads_and_later_work() -> None:
    """Threads see the user where the context travels, or with `bind`; later work still does."""

    async def work(request: web.Request) -> web.Response:
        set_user({"id": "eve"})
        loop = asyncio.get_running_loop()
        seen.append(await asyncio.to_thread(who))
        seen.append(await loop.run_in_executor(None, who))
        seen.append(await loop.run_in_executor(None, bind(who)))
        loop.call_later(0, lambda: (seen.append(who()), later.set()))
        tasks.append(loop.create_task(after(answered)))
        return web.Response()

    async def after(answered: asyncio.Event) -> None:
        await answered.wait()
        seen.append(who())

    async def conversation(client: TestClient[Any, Any]) -> None:
        await client.get("/work")
        await later.wait()
        answered.set()
        await tasks[0]

    answered, later = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    talk(make_app(work), conversation)
    assert seen == ["eve", None, "eve", "eve", "eve"]


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """A report of a request waits for an async resolver, to the end of a lazy body."""

    async def resolver(request: web.Request) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    async def handled(request: web.Request) -> web.Response:
        async def chunks() -> AsyncIterator[bytes]:
            capture_message("in the body")
            yield b"x"

        capture_message("in the handler")
        return web.Response(body=chunks())

    ask(make_app(handled, resolver=resolver), "/handled", "/fail", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}] * 3


def test_an_eager_resolver_is_asked_before_the_app(usercontext_recorder: RecordingClient) -> None:
    """With `resolve="eager"` the user is known when the handler runs; nobody is not a last word."""

    async def peek(request: web.Request) -> web.Response:
        seen.append(who(resolve=False))
        return web.Response()

    ask(make_app(peek, resolve="eager"), "/peek", headers=ADA)
    ask(make_app(peek, resolve="eager"), "/peek")
    assert seen == ["ada", None]


def test_nothing_is_resolved_for_a_request_that_reports_nothing() -> None:
    """The resolver is called when a report needs it, and not before."""

    async def idle(request: web.Request) -> web.Response:
        return web.Response()

    ask(make_app(idle, resolver=seen.append), "/idle")
    assert seen == []


def test_request_user_reads_what_the_app_found(usercontext_recorder: RecordingClient) -> None:
    """The ready resolver takes `request["user"]`, and of a mapping only what names somebody."""

    async def authenticated(request: web.Request) -> web.Response:
        vars(request)["_state"]["user"] = {"id": 7, "password_hash": "x"}
        capture_message("hello")
        return web.Response()

    ask(make_app(authenticated, resolver=request_user), "/authenticated", "/fail")
    assert users(usercontext_recorder) == [{"id": "7"}, None]


def test_clients_that_push_learn_of_the_user_before_a_stream_starts() -> None:
    """Who records every request is handed its user when the response starts, once it is known."""
    recorder = RecordingClient(recording=True)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen.extend(recorder.users)
        await response.write(b"x")
        return response

    ask(make_app(stream, clients=[recorder]), "/stream", headers=ADA)
    assert seen[-1] == {"id": "ada"}


def test_a_raised_answer_pushes_too() -> None:
    """An answer that was raised starts a response as any other does."""
    recorder = RecordingClient(recording=True)
    ask(make_app(clients=[recorder]), "/missing", headers=ADA)
    assert {"id": "ada"} in recorder.users


def test_an_admin_acts_as_somebody(usercontext_recorder: RecordingClient) -> None:
    """A `use_user` block in a handler names its own user, an error that leaves it too."""

    async def impersonate(request: web.Request) -> web.Response:
        with use_user({"id": "bob"}):
            raise LookupError("as bob")

    ask(make_app(impersonate), "/impersonate", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "bob"}]


def test_a_client_of_a_unix_socket_has_no_address(
    usercontext_recorder: RecordingClient, tmp_path: Path
) -> None:
    """Over a unix socket there is no address to report."""

    async def serve() -> None:
        runner = web.AppRunner(make_app(request_data=RequestData(include_ip=True)))
        await runner.setup()
        path = str(tmp_path / "socket")
        await web.UnixSite(runner, path).start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /fail HTTP/1.0\r\nx-user: ada\r\n\r\n")
        assert b"500" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        await runner.cleanup()

    asyncio.run(serve())
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_reports_are_sent_when_the_app_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the app flushes what waits for the built-in client."""
    recorder = RecordingClient()
    monkeypatch.setattr(recorder, "flush", lambda timeout: bool(seen.append(timeout)) or True)
    usercontext.init(client=recorder)
    ask(make_app(), "/me")
    assert seen == [2.0]


def test_a_request_without_a_server_is_served_too() -> None:
    """The middleware called by hand, as tests do, leaves nothing behind in the caller's task."""

    async def login(request: web.Request) -> web.StreamResponse:
        set_user({"id": "eve"})
        return web.Response(text=str(who()))

    async def call() -> tuple[Any, str | None]:
        response: Any = await UserContextMiddleware()(make_mocked_request("GET", "/"), login)
        return response.text, who()

    assert asyncio.run(call()) == ("eve", None)


def test_the_handler_awaits_the_user() -> None:
    """`resolve_user` asks an async resolver with aiohttp's own request."""

    async def resolver(request: web.Request) -> dict[str, str]:
        return {"id": request.match_info.route.name or "unnamed"}

    async def awaited(request: web.Request) -> web.Response:
        user = await resolve_user()
        return web.Response(text=user.id if user else "nobody")

    assert ask(make_app(awaited, resolver=resolver), "/awaited") == ["unnamed"]


def test_an_error_that_the_app_handles_is_its_own_to_report(
    usercontext_recorder: RecordingClient,
) -> None:
    """A middleware of the app that answers an error reports it itself, with the user."""

    @web.middleware
    async def answers(request: web.Request, handler: Any) -> Any:
        try:
            return await handler(request)
        except LookupError:
            capture_exception()
            return web.Response(status=409)

    app = make_app()
    app.middlewares.append(answers)
    ask(app, "/fail", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


@pytest.mark.parametrize("wrong", ["no app", "twice", "started"])
def test_a_wrong_setup_names_the_fix(wrong: str) -> None:
    """What cannot work fails where it is written, and says what to write instead."""
    app: Any = object() if wrong == "no app" else web.Application()
    if wrong == "twice":
        setup(app)
    if wrong == "started":
        app.freeze()
    with pytest.raises(ConfigurationError, match=r"setup\(\)|setup\(app\)"):
        setup(app)


def test_a_wrong_option_names_itself() -> None:
    """A wrong option raises where the middleware is made."""
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContextMiddleware(resolvr=None)
