"""BlackSheep: every request of an app has its user, and what BlackSheep answers is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("blacksheep")
pytest.importorskip("httpx")

import httpx
from blacksheep import Application, Content, Request, Response, StreamedContent, WebSocket, text
from blacksheep.exceptions import Forbidden
from blacksheep.server.routing import Router
from guardpost import AuthenticationHandler, Identity

from tests.driver import scope_of
from usercontext import (
    ConfigurationError,
    capture_exception,
    capture_message,
    get_user,
    set_user,
)
from usercontext.frameworks.blacksheep import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from usercontext.testing import RecordingClient

ADA = {"x-user": "ada"}
CLAIMS = {"sub": "ada", "name": "Ada", "email": "ada@shop.example", "password_hash": "x"}
seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


def of_header(request: Request) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = request.get_first_header(b"x-user")
    return {"id": name.decode()} if name else None


def who(**how: Any) -> str | None:
    """Return the id of the current user."""
    user = get_user(**how)
    return None if user is None else user.id


async def me(request: Request) -> Response:
    """Say who the user is."""
    return text(str(who()))


async def login(request: Request) -> Response:
    """Set the user."""
    set_user({"id": "eve"})
    return text(str(who()))


async def fail(request: Request) -> Response:
    """Fail, as nothing of the app expects."""
    raise LookupError("no such thing")


async def forbidden(request: Request) -> Response:
    """Answer by raising."""
    raise Forbidden


def bare_app(*handlers: Any) -> Application:
    """Make an app that serves each handler under its name."""
    app = Application(router=Router())
    for handler in (me, login, fail, forbidden, *handlers):
        app.router.add_get(f"/{handler.__name__}", handler)
    return app


def make_app(*handlers: Any, **options: Any) -> Application:
    """Make an app with our extension."""
    app = bare_app(*handlers)
    UserContext(app, **({"resolver": of_header} | options))
    return app


def talk(app: Any, conversation: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Have a conversation with an app."""

    async def with_client() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as one:
            await app.start()
            return await conversation(one)

    return asyncio.run(with_client())


def ask(app: Any, *paths: str, headers: dict[str, str] | None = None) -> list[str]:
    """Send requests, one after the other; return the answers."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get(path, headers=headers)).text for path in paths]

    answers: list[str] = talk(app, conversation)
    return answers


def users(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return whom each report names."""
    return [event.get("user") for event in recorder.events]


def test_an_unhandled_error_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """BlackSheep answers with a 500 itself: the report goes out, once, unhandled."""
    ask(make_app(), "/fail", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["request"]["url"] == "http://shop.example/fail"


def test_an_answer_that_is_raised_is_no_error(usercontext_recorder: RecordingClient) -> None:
    """An HTTPException is how handlers say what to answer."""
    ask(make_app(), "/forbidden", "/missing", headers=ADA)
    assert usercontext_recorder.events == []


def test_an_error_that_the_app_handles_is_its_own_to_report(
    usercontext_recorder: RecordingClient,
) -> None:
    """An exception handler sees the user, and what it reports itself is all."""
    app = make_app()

    @app.exception_handler(LookupError)
    async def answer(self: Any, request: Request, error: LookupError) -> Response:
        capture_exception(error)
        return text(str(who()), status=409)

    assert ask(app, "/fail", headers=ADA) == ["ada"]
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


def test_an_exception_handler_that_fails_is_reported(
    usercontext_recorder: RecordingClient,
) -> None:
    """BlackSheep answers that with a 500 as well: the report names the user, once."""
    app = make_app()

    @app.exception_handler(LookupError)
    async def on_lookup(_app: Any, _request: Request, _error: Exception) -> Response:
        raise ValueError("the handler itself")

    ask(app, "/fail", headers={"x-user": "ada"})
    assert users(usercontext_recorder) == [{"id": "ada"}]
    (event,) = usercontext_recorder.events
    assert event["exception"]["values"][-1]["type"] == "ValueError"


def test_nobody_follows_somebody() -> None:
    """An anonymous request behind one that set its user is nobody's."""
    assert ask(make_app(), "/login", "/me", "/login", "/me") == ["eve", "None", "eve", "None"]


def test_middlewares_see_the_user() -> None:
    """What the handler set is seen by the app's middlewares, and found by their request."""
    app = make_app()

    async def look(request: Request, handler: Any) -> Response:
        response: Response = await handler(request)
        seen.extend([who(), who(request=request)])
        return response

    app.middlewares.append(look)
    ask(app, "/login")
    assert seen == ["eve", "eve"]


def test_a_stream_runs_inside_its_request(usercontext_recorder: RecordingClient) -> None:
    """A stream has its user long after the handler returned, and an error in it too."""

    async def chunks() -> AsyncIterator[bytes]:
        set_user({"id": "bob"})
        yield str(who()).encode()
        raise LookupError("half way")

    async def stream(request: Request) -> Response:
        return Response(200, content=StreamedContent(b"text/plain", chunks))

    ask(make_app(stream), "/stream", headers=ADA)
    assert users(usercontext_recorder) == [{"id": "bob"}]


def talk_by_websocket(app: Any, *texts: str) -> list[Any]:
    """Open a websocket at `/chat`, send texts, and close it; return what it answered."""

    async def conversation() -> list[Any]:
        messages: list[dict[str, Any]] = [
            {"type": "websocket.connect"},
            *({"type": "websocket.receive", "text": one} for one in texts),
            {"type": "websocket.disconnect", "code": 1000},
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {**scope_of(x_user="ada"), "type": "websocket", "path": "/chat"}
        await app.start()
        await app({**scope, "raw_path": b"/chat", "subprotocols": []}, receive, send)
        return [message["text"] for message in sent if message["type"] == "websocket.send"]

    return asyncio.run(conversation())


@pytest.mark.parametrize("boom", [True, False])
def test_a_websocket_changes_its_user(boom: bool, usercontext_recorder: RecordingClient) -> None:
    """A websocket's user is its own and may change; an error names it, going away is none."""
    app = make_app()

    @app.router.ws("/chat")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            message = await socket.receive_text()
            await socket.send_text(str(who()))
            set_user({"id": message})
            if message == "boom":
                raise LookupError("boom")

    texts = ["bob", "boom"] if boom else ["bob", "eve"]
    assert talk_by_websocket(app, *texts) == ["ada", "bob"]
    assert users(usercontext_recorder) == ([{"id": "boom"}] if boom else [])


class HeaderAuthentication(AuthenticationHandler):
    """Takes the claims of whom a header names."""

    async def authenticate(self, context: Any) -> Identity | None:
        """Say who makes a request."""
        if context.get_first_header(b"x-user"):
            context.user = Identity(CLAIMS, "header")
        else:
            context.user = Identity({})
        return context.user  # type: ignore[no-any-return]


@pytest.mark.parametrize("resolve", ["lazy", "eager"])
def test_request_user_names_whom_authentication_found(
    resolve: str, usercontext_recorder: RecordingClient
) -> None:
    """The ready resolver takes the claims that name somebody, of an authenticated user alone."""
    app = make_app(resolver=request_user, resolve=resolve)
    app.use_authentication().add(HeaderAuthentication())
    ask(app, "/fail", headers=ADA)
    ask(app, "/fail")
    ada = {"id": "ada", "name": "Ada", "email": "ada@shop.example"}
    assert users(usercontext_recorder) == [ada, None]


def test_a_user_who_is_found_late_is_not_missed(usercontext_recorder: RecordingClient) -> None:
    """Whoever asks before authentication hears of nobody, and that is not a last word."""
    app = make_app(resolver=request_user)
    app.use_authentication().add(HeaderAuthentication())

    async def early(request: Request, handler: Any) -> Response:
        seen.append(who())
        response: Response = await handler(request)
        return response

    app.middlewares.insert(0, early)
    ask(app, "/fail", headers=ADA)
    assert seen == [None]
    assert [user and user["id"] for user in users(usercontext_recorder)] == ["ada"]


def test_what_the_first_request_starts_is_nobodys() -> None:
    """Without a lifespan an app starts in its first request, of which its hooks see nothing."""
    app = make_app(resolve="eager")

    async def look(_app: Application) -> None:
        set_user({"id": "start"})
        seen.append(who())

    async def conversation() -> list[str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as one:
            return [(await one.get("/me", headers=ADA)).text]

    app.on_start += look
    assert asyncio.run(conversation()) == ["ada"]
    # The oldest versions leave the start to the server.
    assert seen in ([None], [])


def test_a_mounted_app_is_inside(usercontext_recorder: RecordingClient) -> None:
    """An app that is mounted after `UserContext` shares the request, with options of its own."""
    plain = bare_app()
    own = make_app(resolver=lambda request: {"id": "inner"})
    app = make_app()
    app.mount("/plain", plain)
    app.mount("/own", own)
    assert ask(app, "/plain/me", "/own/me", "/me", headers=ADA) == ["ada", "inner", "ada"]


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """Reports of a request wait for an async resolver, which gets BlackSheep's own request."""

    async def resolver(request: Request) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"id": request.route_values["name"] if request.route_values else None}

    async def named(request: Request) -> Response:
        capture_message("hello")
        return Response(200, content=Content(b"text/plain", b"ok"))

    app = make_app(resolver=resolver)
    app.router.add_get("/named/:name", named)
    ask(app, "/named/ada")
    assert users(usercontext_recorder) == [{"id": "ada"}]


@pytest.mark.parametrize("wrong", ["no app", "twice", "started"])
def test_a_wrong_app_names_the_fix(wrong: str) -> None:
    """What cannot work fails where it is written, and says what to write instead."""
    app: Any = object() if wrong == "no app" else bare_app()
    if wrong == "twice":
        UserContext(app)
    if wrong == "started":
        asyncio.run(app.start())
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
