"""Tornado: every handler of an application has its user, and what Tornado logs is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("tornado")
pytest.importorskip("httpx")

import httpx
import tornado
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.testing import bind_unused_port
from tornado.web import Application, Finish, HTTPError, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler, websocket_connect

from usercontext import (
    ConfigurationError,
    RequestData,
    bind,
    capture_exception,
    capture_message,
    get_user,
    init,
    set_user,
)
from usercontext.frameworks.tornado import UserContext
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ADA = {"x-user": "ada"}
seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


def of_header(handler: RequestHandler) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = handler.request.headers.get("x-user")
    return {"id": name} if name else None


def who(**how: Any) -> str | None:
    """Return the id of the current user."""
    user = get_user(**how)
    return None if user is None else user.id


class Me(RequestHandler):
    """Says who the user is."""

    def get(self) -> None:
        self.write(str(who()))


class Login(RequestHandler):
    """Sets the user."""

    def get(self) -> None:
        set_user({"id": "eve"})
        self.write(str(who()))


class Fail(RequestHandler):
    """Fails, as nothing of the application expects."""

    def get(self) -> None:
        raise LookupError("no such thing")


def make_app(*handlers: type[RequestHandler], **options: Any) -> Application:
    """Make an application that serves each handler under its name."""
    app = Application([(f"/{one.__name__.lower()}", one) for one in (Me, Login, Fail, *handlers)])
    UserContext(app, **({"resolver": of_header} | options))
    return app


def talk(app: Application, conversation: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Have a conversation with an application that is served on a port of this machine."""

    async def with_client() -> Any:
        listening, port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(listening)
        url = f"http://127.0.0.1:{port}"
        try:
            async with httpx.AsyncClient(base_url=url) as client:
                return await conversation(client)
        finally:
            server.stop()
            await server.close_all_connections()

    return asyncio.run(with_client())


def ask(app: Application, *paths: str, headers: dict[str, str] | None = None) -> list[str]:
    """Send requests, one after the other on one connection; return the answers."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get(path, headers=headers)).text for path in paths]

    answers: list[str] = talk(app, conversation)
    return answers


def users(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return whom each report names."""
    return [event.get("user") for event in recorder.events]


def test_an_unhandled_error_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """Tornado answers with a 500 itself: the report goes out, once, unhandled, with its request."""
    ask(make_app(), "/fail?page=2", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["request"]["url"].endswith("/fail")


def test_the_request_is_described_as_it_was_sent(usercontext_recorder: RecordingClient) -> None:
    """What RequestData allows is reported of Tornado's request, and the address of its client."""
    flags = RequestData(include_ip=True, include_query_string=True, include_headers=True)
    ask(make_app(request_data=flags), "/fail?page=2", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "ip_address": "127.0.0.1"}
    assert event["request"]["method"] == "GET"
    assert event["request"]["query_string"] == "page=2"
    assert event["request"]["headers"]["X-User"] == "ada"


def test_an_answer_that_is_raised_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """An HTTPError below 500, or Finish, is how handlers say what to answer."""

    class Forbidden(RequestHandler):
        def get(self) -> None:
            raise HTTPError(403)

    class Done(RequestHandler):
        def get(self) -> None:
            raise Finish("done")

    ask(make_app(Forbidden, Done), "/forbidden", "/done", "/missing", headers=ADA)
    assert usercontext_recorder.events == []


def test_a_server_error_of_tornados_own_is_reported(usercontext_recorder: RecordingClient) -> None:
    """An HTTPError of 500 and more is an error."""

    class Broken(RequestHandler):
        def get(self) -> None:
            raise HTTPError(503)

    ask(make_app(Broken), "/broken", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_hooks_of_a_handler_see_the_user(usercontext_recorder: RecordingClient) -> None:
    """What the app overrides still runs, inside the request: from `prepare` to `on_finish`."""

    class Hooked(RequestHandler):
        def prepare(self) -> None:
            set_user({"id": "bob"})

        def get(self) -> None:
            raise LookupError("no such thing")

        def log_exception(self, *error: Any) -> None:
            capture_exception(error[1])
            seen.append(who())

        def write_error(self, status: int, **details: Any) -> None:
            self.finish(str(who()))

        def on_finish(self) -> None:
            seen.extend([who(), who(request=self.request)])

    assert ask(make_app(Hooked), "/hooked") == ["bob"]
    assert seen == ["bob", "bob", "bob"]
    assert users(usercontext_recorder) == [{"id": "bob"}]


def test_nobody_follows_somebody_on_a_connection() -> None:
    """An anonymous request behind one that set its user is nobody's."""
    assert ask(make_app(), "/login", "/me", "/login", "/me") == ["eve", "None", "eve", "None"]


def test_requests_at_once_have_their_own_users() -> None:
    """Sixteen requests that wait for each other each see their own user."""

    class Meet(RequestHandler):
        async def get(self) -> None:
            set_user({"id": self.get_argument("user")})
            await gate.wait()
            self.write(str(who()))

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        answers = await asyncio.gather(*(client.get(f"/meet?user={n}") for n in range(16)))
        return [answer.text for answer in answers]

    gate = asyncio.Barrier(16)
    assert talk(make_app(Meet), conversation) == [str(n) for n in range(16)]


def test_the_loop_learns_nothing_of_a_response() -> None:
    """What waits for a connection runs in the context of whoever wrote to it last: in nobody's."""

    class Waiting(RequestHandler):
        async def get(self) -> None:
            set_user({"id": "eve"})
            self.write(b"x" * 10_000_000)
            await self.flush()

    async def conversation(client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        for name in ("add_reader", "add_writer"):
            monkeypatch.setattr(loop, name, watched(getattr(loop, name)))
        await client.get("/waiting")
        await client.get("/me", headers=ADA)

    def watched(add: Any) -> Any:
        def add_watched(*args: Any) -> Any:
            seen.append(who(resolve=False))
            return add(*args)

        return add_watched

    with pytest.MonkeyPatch.context() as monkeypatch:
        talk(make_app(Waiting), conversation)
    assert set(seen) == {None}


def test_a_stream_runs_inside_its_request(usercontext_recorder: RecordingClient) -> None:
    """A response that is flushed in parts has its user to the end, and an error in it too."""

    class Stream(RequestHandler):
        async def get(self) -> None:
            self.write("x")
            await self.flush()
            set_user({"id": "bob"})
            self.write(str(who()))
            await self.flush()
            raise LookupError("half way")

    assert ask(make_app(Stream), "/stream") == ["xbob"]
    assert users(usercontext_recorder) == [{"id": "bob"}]


def test_a_client_that_goes_away_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """A stream whose client leaves ends without a report; its handler learns of it as its user."""

    class Stream(RequestHandler):
        async def get(self) -> None:
            while True:
                self.write("x" * 65536)
                await self.flush()

        def on_connection_close(self) -> None:
            seen.append(who())

        def log_exception(self, *error: Any) -> None:
            seen.append(type(error[1]).__name__)
            over.set()

    async def conversation(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/stream", headers=ADA) as answer:
            await anext(answer.aiter_raw())
        async with asyncio.timeout(10):
            await over.wait()

    over = asyncio.Event()
    talk(make_app(Stream), conversation)
    assert sorted(seen) == ["StreamClosedError", "ada"]
    assert usercontext_recorder.events == []


def test_an_upload_is_received_inside_its_request() -> None:
    """`data_received` is called by the connection, and sees the user, whom nothing else does."""

    @stream_request_body
    class Upload(RequestHandler):
        def prepare(self) -> None:
            set_user({"id": "eve"})

        async def data_received(self, chunk: bytes) -> None:
            await asyncio.sleep(0)
            seen.append(who())

        def post(self) -> None:
            self.write(str(who()))

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        answer = await client.post("/upload", content=b"x" * 200_000)
        return [answer.text, (await client.get("/me")).text]

    assert talk(make_app(Upload), conversation) == ["eve", "None"]
    assert set(seen) == {"eve"}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_websocket_changes_its_user(
    is_async: bool, usercontext_recorder: RecordingClient
) -> None:
    """A websocket's user is its own, may change, and is named when a message fails."""
    if is_async and tornado.version_info < (6, 6):
        pytest.skip("this Tornado hands no handler the error of an async on_message")

    class Chat(WebSocketHandler):
        def on_message(self, message: str | bytes) -> Any:
            self.write_message(str(who()))
            set_user({"id": str(message)})
            return self.end(message) if is_async else self.check(message)

        def check(self, message: str | bytes) -> None:
            if message == "boom":
                raise LookupError("boom")

        async def end(self, message: str | bytes) -> None:
            await asyncio.sleep(0)
            self.check(message)

        def log_exception(self, *error: Any) -> None:
            failed.set()

        def on_close(self) -> None:
            seen.append(who())
            closed.set()

    async def conversation(client: httpx.AsyncClient) -> list[Any]:
        url = f"ws://127.0.0.1:{client.base_url.port}/chat"
        connection = await websocket_connect(HTTPRequest(url, headers=ADA))
        answers = []
        for message in ("bob", "eve", "boom"):
            await connection.write_message(message)
            answers.append(await connection.read_message())
        await failed.wait()
        connection.close()
        await closed.wait()
        return answers

    failed, closed = asyncio.Event(), asyncio.Event()
    assert talk(make_app(Chat), conversation) == ["ada", "bob", "eve"]
    assert users(usercontext_recorder) == [{"id": "boom"}]
    assert seen == ["boom"]


def test_threads_and_later_work() -> None:
    """Threads see the user where the context travels, or with `bind`; later work still does."""

    class Work(RequestHandler):
        async def get(self) -> None:
            set_user({"id": "eve"})
            loop = asyncio.get_running_loop()
            seen.append(await asyncio.to_thread(who))
            seen.append(await loop.run_in_executor(None, who))
            seen.append(await loop.run_in_executor(None, bind(who)))
            loop.call_later(0, lambda: (seen.append(who()), later.set()))
            tasks.append(loop.create_task(after()))

    async def after() -> None:
        await answered.wait()
        seen.append(who())

    async def conversation(client: httpx.AsyncClient) -> None:
        await client.get("/work")
        await later.wait()
        answered.set()
        await tasks[0]

    answered, later = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    talk(make_app(Work), conversation)
    assert seen == ["eve", None, "eve", "eve", "eve"]


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """Reports of a request wait for an async resolver until the request's end."""

    async def resolver(handler: RequestHandler) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": handler.request.headers["x-user"]}

    class Handled(RequestHandler):
        def get(self) -> None:
            capture_message("in the handler")

    ask(make_app(Handled, resolver=resolver), "/handled", "/fail", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "ada"}] * 2


class WithUser(RequestHandler):
    """Finds the user as Tornado's own guide does."""

    found: Any = None

    def get_current_user(self) -> Any:
        seen.append("asked")
        return self.found

    def get(self) -> None:
        if self.get_argument("report", None):
            capture_message("hello")


@pytest.mark.parametrize(
    ("found", "user"),
    [
        (b"ada", {"username": "ada"}),
        ("ada", {"username": "ada"}),
        ({"id": 7, "password_hash": "x"}, {"id": "7"}),
        (None, None),
    ],
)
def test_without_a_resolver_the_current_user_is_named(
    found: Any, user: Any, usercontext_recorder: RecordingClient
) -> None:
    """What `get_current_user()` finds is named, once a report needs it and not before."""
    app = make_app(type("Found", (WithUser,), {"found": found}), resolver=None)
    ask(app, "/found")
    assert seen == []
    ask(app, "/found?report=1")
    assert seen == ["asked"]
    assert users(usercontext_recorder) == [user]


def test_a_resolver_of_init_comes_before_the_current_user() -> None:
    """What the process was configured with is not overruled by what nobody asked for."""
    recorder = RecordingClient()
    init(client=recorder, resolver=of_header)
    ask(make_app(resolver=None), "/fail", headers=ADA)
    assert users(recorder) == [{"id": "ada"}]


@pytest.mark.parametrize("is_async", [False, True])
def test_clients_that_push_learn_of_the_user_before_a_stream_starts(is_async: bool) -> None:
    """Who records every request is handed its user when the response starts, and no later."""
    recorder = RecordingClient(recording=True)

    async def resolver(handler: RequestHandler) -> Any:
        return of_header(handler)

    class Stream(RequestHandler):
        async def get(self) -> None:
            self.write("x")
            await self.flush()
            seen.extend(recorder.users)

    app = make_app(Stream, clients=[recorder], resolver=resolver if is_async else of_header)
    ask(app, "/stream", headers=ADA)
    assert seen[-1] == {"id": "ada"}


def test_a_client_of_a_unix_socket_has_no_address(
    usercontext_recorder: RecordingClient, tmp_path: Any
) -> None:
    """Over a unix socket there is no address to report."""

    async def serve() -> None:
        path = str(tmp_path / "socket")
        server = HTTPServer(make_app(request_data=RequestData(include_ip=True)))
        server.add_socket(bind_unix_socket(path))
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /fail HTTP/1.0\r\nhost: t\r\nx-user: ada\r\n\r\n")
        assert b"500" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.stop()
        await server.close_all_connections()

    asyncio.run(serve())
    assert users(usercontext_recorder) == [{"id": "ada"}]


def test_a_handler_is_still_called_by_its_name() -> None:
    """The class that serves a handler's requests is named as the handler is, and one of it."""

    class Named(RequestHandler):
        def get(self) -> None:
            self.write(f"{type(self).__name__} {isinstance(self, Named)}")

    assert ask(make_app(Named), "/named") == ["Named True"]


@pytest.mark.parametrize("wrong", ["no app", "twice"])
def test_a_wrong_application_names_the_fix(wrong: str) -> None:
    """What cannot work fails where it is written, and says what to write instead."""
    app: Any = object() if wrong == "no app" else Application()
    if wrong == "twice":
        UserContext(app)
    with pytest.raises(ConfigurationError, match=r"UserContext\(application\)|keep one"):
        UserContext(app)


def test_a_factory_initialises_later() -> None:
    """One UserContext serves several applications; a wrong option raises before there is any."""
    context = UserContext(resolver=of_header)
    for _ in range(2):
        app = Application([("/me", Me)])
        context.init_app(app)
        assert ask(app, "/me", headers=ADA) == ["ada"]
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=None)
