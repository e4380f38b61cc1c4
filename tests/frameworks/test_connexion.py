"""Connexion: every request has its user, and what Connexion answers itself is reported."""

from __future__ import annotations

import asyncio
import gc
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("connexion")
pytest.importorskip("flask")
pytest.importorskip("httpx")

import connexion
import httpx
from connexion import AsyncApp, FlaskApp
from connexion.exceptions import OAuthProblem, ProblemException
from connexion.lifecycle import ConnexionResponse
from connexion.middleware import ConnexionMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from usercontext import ConfigurationError, capture_exception, get_user, set_user
from usercontext.frameworks.connexion import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from usercontext.testing import RecordingClient

ADA = {"x-api-key": "ada's key"}
PEOPLE = {
    "ada's key": {"sub": "ada", "email": "ada@shop.example", "password_hash": "x"},
    "object key": {"sub": {"id": 7, "password_hash": "x"}},
}
BOTH = pytest.mark.parametrize("kind", [AsyncApp, FlaskApp])


def who(**how: Any) -> str | None:
    """Return the id of the current user."""
    user = get_user(**how)
    return None if user is None else user.id


def check_key(key: str, required_scopes: Any = None) -> dict[str, Any]:
    """Find whose key it is, as a security function of an app does."""
    if key not in PEOPLE:
        raise OAuthProblem("no such key")
    return PEOPLE[key]


def me() -> str:
    """Say who the user is."""
    return str(who())


def login() -> str:
    """Set the user."""
    set_user({"id": "eve"})
    return str(who())


def fail() -> str:
    """Fail, as nothing of the app expects."""
    raise LookupError("no such thing")


def forbidden() -> str:
    """Answer by raising."""
    raise ProblemException(status=403)


def unavailable() -> str:
    """Answer by raising, with a server error that is meant."""
    raise HTTPException(503)


def broken() -> str:
    """Raise what Connexion does where a response is not as the specification says."""
    raise connexion.exceptions.NonConformingResponse("no such field")


async def stream() -> StreamingResponse:
    """Fail in the middle of a response."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("half way")

    return StreamingResponse(chunks())


ENDPOINTS = {one.__name__: one for one in (me, login, fail, forbidden, unavailable, broken, stream)}
SPECIFICATION: dict[str, Any] = {
    "openapi": "3.0.0",
    "info": {"title": "Shop", "version": "1"},
    "components": {
        "securitySchemes": {
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "x-api-key",
                "x-apikeyInfoFunc": f"{__name__}.check_key",
            }
        }
    },
    "security": [{"key": []}, {}],
    "paths": {
        f"/{name}": {
            "get": {"operationId": name, "responses": {"200": {"description": "ok"}}},
        }
        for name in ENDPOINTS
    },
}


def make_app(kind: type[Any] = AsyncApp, **options: Any) -> Any:
    """Make an app of Connexion with our extension."""
    app = kind(__name__)
    UserContext(app, **({"resolver": request_user} | options))
    app.add_api(SPECIFICATION, resolver=connexion.Resolver(ENDPOINTS.__getitem__))
    return app


def talk(app: Any, conversation: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Have a conversation with an app."""

    async def with_client() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as one:
            return await conversation(one)

    return asyncio.run(with_client())


def ask(app: Any, *paths: str, headers: dict[str, str] | None = None) -> list[str]:
    """Send requests, one after the other; return the answers."""

    async def conversation(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get(path, headers=headers)).text.strip('"\n') for path in paths]

    answers: list[str] = talk(app, conversation)
    return answers


@contextmanager
def passing_errors() -> Iterator[None]:
    """Let errors pass Connexion, which never awaits the response that it makes of such."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
        gc.collect()


def users(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return whom each report names."""
    return [event.get("user") for event in recorder.events]


@BOTH
def test_an_unhandled_error_names_whom_security_found(
    kind: type[Any], usercontext_recorder: RecordingClient
) -> None:
    """Connexion answers with a 500 itself: the report goes out, once, and names its user."""
    (answer,) = ask(make_app(kind), "/fail", headers=ADA)
    assert "Internal Server Error" in answer
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "email": "ada@shop.example"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


@BOTH
def test_endpoints_see_the_user(kind: type[Any]) -> None:
    """What the security function found is seen in endpoints, and what they set."""
    assert ask(make_app(kind), "/me", "/login", headers=ADA) == ["ada", "eve"]


@BOTH
def test_nobody_follows_somebody(kind: type[Any], usercontext_recorder: RecordingClient) -> None:
    """An anonymous request behind somebody's is nobody's."""
    app = make_app(kind)
    ask(app, "/fail", headers=ADA)
    ask(app, "/fail")
    assert [user and user["id"] for user in users(usercontext_recorder)] == ["ada", None]


@BOTH
def test_an_answer_that_is_raised_is_no_error(
    kind: type[Any], usercontext_recorder: RecordingClient
) -> None:
    """A problem below 500, or an HTTPException, is how endpoints say what to answer."""
    paths = ["/forbidden", "/unavailable", "/missing"]
    ask(make_app(kind), *paths, headers=ADA)
    ask(make_app(kind), "/me", headers={"x-api-key": "nobody's key"})
    assert usercontext_recorder.events == []


def test_a_response_that_breaks_the_specification_is_an_error(
    usercontext_recorder: RecordingClient,
) -> None:
    """A problem of 500 and more is one of the server."""
    ask(make_app(), "/broken", headers=ADA)
    assert [user and user["id"] for user in users(usercontext_recorder)] == ["ada"]


@BOTH
def test_an_error_that_the_app_handles_is_its_own_to_report(
    kind: type[Any], usercontext_recorder: RecordingClient
) -> None:
    """An error handler of the app finds the user, and what it reports itself is all."""

    def answer(request: Any, error: Exception) -> ConnexionResponse:
        capture_exception(error)
        return ConnexionResponse(status_code=409, body=str(who()))

    app = make_app(kind)
    app.add_error_handler(LookupError, answer)
    assert ask(app, "/fail", headers=ADA) == ["ada"]
    (event,) = usercontext_recorder.events
    assert event["user"]["id"] == "ada"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


def test_an_error_in_a_stream_is_reported_once(usercontext_recorder: RecordingClient) -> None:
    """What Connexion raises in place of an error that it can answer no more is not a second one."""
    with passing_errors():
        ask(make_app(), "/stream", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["exception"]["values"][-1]["type"] == "LookupError"
    assert event["user"]["id"] == "ada"


def test_an_error_handler_that_fails_is_reported(usercontext_recorder: RecordingClient) -> None:
    """What an error handler of the app raises is handled by nobody."""

    def answer(request: Any, error: Exception) -> ConnexionResponse:
        raise ValueError("cannot answer either")

    app = make_app()
    app.add_error_handler(LookupError, answer)
    with passing_errors():
        ask(app, "/fail", headers=ADA)
    (event,) = usercontext_recorder.events
    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert event["user"]["id"] == "ada"


def test_a_user_object_is_cut_to_its_identity(usercontext_recorder: RecordingClient) -> None:
    """Of what a security function gave as the user only what names somebody is taken."""
    ask(make_app(), "/fail", headers={"x-api-key": "object key"})
    assert users(usercontext_recorder) == [{"id": "7"}]


def test_connexion_around_another_app(usercontext_recorder: RecordingClient) -> None:
    """ConnexionMiddleware around an app of another framework takes it too."""

    async def broken_app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such thing")

    stack = ConnexionMiddleware(broken_app)
    UserContext(stack, resolver=request_user)
    stack.add_api(SPECIFICATION, resolver=connexion.Resolver(ENDPOINTS.__getitem__))
    ask(stack, "/me", headers=ADA)
    assert [user and user["id"] for user in users(usercontext_recorder)] == ["ada"]


@pytest.mark.parametrize("wrong", ["no app", "twice", "started"])
def test_a_wrong_app_names_the_fix(wrong: str) -> None:
    """What cannot work fails where it is written, and says what to write instead."""
    app: Any = Starlette() if wrong == "no app" else AsyncApp(__name__)
    if wrong == "twice":
        UserContext(app)
    if wrong == "started":
        ask(app, "/")
    with pytest.raises(ConfigurationError, match=r"UserContext\(app\)|keep one"):
        UserContext(app)


def test_an_app_factory_initialises_later() -> None:
    """One UserContext serves several apps, and a wrong option raises before there is any."""
    context = UserContext(resolver=request_user)
    for _ in range(2):
        app = AsyncApp(__name__)
        context.init_app(app)
        app.add_api(SPECIFICATION, resolver=connexion.Resolver(ENDPOINTS.__getitem__))
        assert ask(app, "/me", headers=ADA) == ["ada"]
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=None)
