"""Quart: errors that it swallows are reported, and its request is there for the resolver."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("quart")
pytest.importorskip("quart_auth")

import quart
import quart_auth

from usercontext import User, capture_message, get_user, resolve_user, set_user
from usercontext.asgi import UserContextMiddleware
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.quart import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from usercontext.testing import RecordingClient

ADA = {"x-user": "ada"}


class Account(quart_auth.AuthUser):
    """A user class whose other properties must not be read."""

    email = property(lambda self: 1 / 0)


def of_header(request: Any) -> dict[str, str] | None:
    """Find the user that a header names."""
    name = request.headers.get("x-user")
    return {"id": name} if name else None


def seen() -> str | None:
    """Say who is seen."""
    user = get_user()
    return None if user is None else user.id


def make_app(**options: Any) -> Any:
    """Make an app with a session, Quart-Auth, and a route that fails."""
    app = quart.Quart("shop")
    app.secret_key = "not a secret"
    quart_auth.QuartAuth(app, cookie_secure=False, user_class=Account)

    @app.get("/fail")
    async def fail() -> str:
        raise LookupError("no such thing")

    @app.get("/login/<name>")
    async def login(name: str) -> str:
        quart_auth.login_user(Account(name))
        quart.session["name"] = name
        return "in"

    UserContext(app, **options)
    return app


def run(conversation: Callable[[], Awaitable[Any]]) -> Any:
    """Run a conversation with an app."""
    return asyncio.run(conversation())  # type: ignore[arg-type]


def get(app: Any, *paths: str, **headers: str) -> list[Any]:
    """Send requests of one client; return the responses."""

    async def conversation() -> list[Any]:
        client = app.test_client()
        return [await client.get(path, headers=headers) for path in paths]

    responses: list[Any] = asyncio.run(conversation())
    return responses


def reported(recorder: RecordingClient) -> list[str | None]:
    """Return whom each report names."""
    return [event.get("user", {}).get("id") for event in recorder.events]


# --- errors ----------------------------------------------------------------------------------


def test_a_swallowed_error_is_reported_with_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """Quart answers with a 500 itself: the report still goes out, once, unhandled."""
    (response,) = get(make_app(resolver=of_header), "/fail", **ADA)
    assert response.status_code == 500
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_error_that_quart_passes_on_is_reported_once(
    usercontext_recorder: RecordingClient,
) -> None:
    """Where Quart re-raises what it has signalled (0.20 does not here), it is the same report."""
    app = make_app(resolver=of_header)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with contextlib.suppress(LookupError):
        get(app, "/fail", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_the_handler_of_a_500_knows_the_user(usercontext_recorder: RecordingClient) -> None:
    """`get_user()` works in it, and the error is reported all the same."""
    app = make_app(resolver=of_header)
    app.register_error_handler(500, lambda error: ({"id": seen()}, 500))

    async def conversation() -> Any:
        return await (await app.test_client().get("/fail", headers=ADA)).get_json()

    assert run(conversation) == {"id": "ada"}
    assert reported(usercontext_recorder) == ["ada"]


def test_a_handled_error_is_not_reported(usercontext_recorder: RecordingClient) -> None:
    """What an error handler of the app turns into a response is the app's own."""
    app = make_app(resolver=of_header)
    app.register_error_handler(LookupError, lambda error: ("gone", 409))
    assert get(app, "/fail", **ADA)[0].status_code == 409
    assert usercontext_recorder.events == []


def test_an_async_resolver_names_a_swallowed_error(
    usercontext_recorder: RecordingClient,
) -> None:
    """It is awaited before the report, inside of Quart's request."""

    async def resolver(request: Any) -> dict[str, str]:
        await asyncio.sleep(0)
        assert quart.request.path == "/fail"
        return {"id": request.headers["x-user"]}

    get(make_app(resolver=resolver), "/fail", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_an_error_in_a_stream_is_reported(usercontext_recorder: RecordingClient) -> None:
    """A body runs when Quart's context is gone: the resolver still gets its headers."""
    app = make_app(resolver=of_header)

    @app.get("/stream")
    async def stream() -> Any:
        async def chunks() -> AsyncIterator[str]:
            yield f"{seen()}"
            raise LookupError("no such thing")

        return chunks()

    with pytest.raises((LookupError, ExceptionGroup)):  # a group from Quart 0.23 on
        get(app, "/stream", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


def test_an_error_of_a_websocket_is_reported(usercontext_recorder: RecordingClient) -> None:
    """Quart logs it and closes the websocket: the report names its user."""
    app = make_app(resolver=of_header)

    @app.websocket("/socket")
    async def socket() -> None:
        await quart.websocket.send(f"{seen()}")
        raise LookupError("no such thing")

    async def conversation() -> Any:
        async with app.test_client().websocket("/socket", headers=ADA) as connection:
            return await connection.receive()

    assert run(conversation) == "ada"
    assert reported(usercontext_recorder) == ["ada"]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_an_error_of_a_background_task_is_reported(
    usercontext_recorder: RecordingClient, kind: str
) -> None:
    """It runs after the response, and names the user whose request started it."""
    app = make_app(resolver=of_header)

    def fail() -> None:
        raise LookupError(str(seen()))

    async def fail_async() -> None:
        fail()

    @app.get("/start")
    async def start() -> str:
        await resolve_user()
        app.add_background_task(fail if kind == "sync" else fail_async)
        return "started"

    async def conversation() -> None:
        async with app.test_app() as running:
            await running.test_client().get("/start", headers=ADA)

    run(conversation)
    (event,) = usercontext_recorder.events
    assert (event["user"], event["exception"]["values"][-1]["value"]) == ({"id": "ada"}, "ada")


def test_an_error_of_no_request_is_left_alone(usercontext_recorder: RecordingClient) -> None:
    """A task that the app starts by itself has no user, and Quart logs its error."""
    app = make_app(resolver=of_header)

    async def fail() -> None:
        raise LookupError("no such thing")

    @app.before_serving
    async def start() -> None:
        app.add_background_task(fail)

    async def conversation() -> None:
        async with app.test_app():
            pass

    run(conversation)
    assert usercontext_recorder.events == []


# --- the user --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/run-sync", "/sync-view"])
def test_threads_of_quart_see_and_set_the_user(path: str) -> None:
    """`run_sync` and sync views share the user of their request."""
    app = make_app(resolver=of_header)
    found: list[str | None] = []

    def look() -> str:
        found.append(seen())
        set_user({"id": "set"})
        return "ok"

    app.add_url_rule("/sync-view", view_func=look)

    @app.get("/run-sync")
    async def run_sync() -> str:
        await quart.utils.run_sync(look)()
        return "ok"

    @app.after_request
    async def after(response: Any) -> Any:
        found.append(seen())
        return response

    get(app, path, **ADA)
    assert found == ["ada", "set"]


def test_the_resolver_gets_the_request_itself() -> None:
    """Inside of Quart's context it is `quart.request`, where `g` and `session` work."""
    app = make_app(resolver=lambda request: {"id": quart.g.name + request.view_args["name"]})

    @app.get("/hello/<name>")
    async def hello(name: str) -> Any:
        quart.g.name = "g "
        return {"id": seen()}

    async def conversation() -> Any:
        return await (await app.test_client().get("/hello/ada")).get_json()

    assert run(conversation) == {"id": "g ada"}


def look_at_another_request(app: Any) -> User | None:
    """Have bob's request ask for the user of ada's, which is still open; return the answer."""
    scopes: list[Any] = []
    found: list[User | None] = []
    begun, over = asyncio.Event(), asyncio.Event()

    @app.get("/keep")
    async def keep() -> str:
        scopes.append(quart.request.scope)
        begun.set()
        await over.wait()
        return "kept"

    @app.get("/look")
    async def look() -> str:
        found.append(get_user(request=scopes[0]))
        over.set()
        return "looked"

    async def conversation() -> None:
        ada, bob = app.test_client(), app.test_client()
        await ada.get("/login/ada")
        await bob.get("/login/bob")
        keeping = asyncio.create_task(ada.get("/keep", headers=ADA))
        await begun.wait()
        await bob.get("/look", headers={"x-user": "bob"})
        await keeping

    run(conversation)
    return found[0]


def test_another_request_is_resolved_with_its_own_headers() -> None:
    """`get_user(request=...)` of somebody else's never reads the current request."""
    assert look_at_another_request(make_app(resolver=of_header)) == User(id="ada")


def test_another_requests_quart_auth_is_not_asked() -> None:
    """`current_user` is bob here, so the question who made ada's request stays open."""
    assert look_at_another_request(make_app(resolver=request_user)) is None


def test_nothing_is_resolved_for_a_request_that_reports_nothing() -> None:
    """Quart's user is not loaded on every request."""
    calls: list[object] = []
    (response,) = get(make_app(resolver=calls.append), "/login/ada")
    assert (response.status_code, calls) == (200, [])


def test_an_app_factory_initialises_later(usercontext_recorder: RecordingClient) -> None:
    """One UserContext serves several apps, each with its own errors."""
    context = UserContext(resolver=of_header)
    for name in ("one", "two"):
        app = quart.Quart(name)
        app.add_url_rule("/", view_func=lambda: 1 / 0)
        context.init_app(app)
        get(app, "/", **ADA)
    assert reported(usercontext_recorder) == ["ada", "ada"]


def test_a_middleware_around_it_is_harmless(usercontext_recorder: RecordingClient) -> None:
    """One record, one report, and the resolver that stands inside."""
    app = make_app(resolver=of_header)
    app.asgi_app = UserContextMiddleware(app.asgi_app, resolver=lambda _: {"id": "outer"})
    get(app, "/fail", **ADA)
    assert reported(usercontext_recorder) == ["ada"]


# --- Quart-Auth ------------------------------------------------------------------------------


def test_quart_auth_names_the_user(usercontext_recorder: RecordingClient) -> None:
    """By the id of its cookie alone; who has none is nobody."""
    app = make_app(resolver=request_user)
    get(app, "/login/ada", "/fail")
    get(app, "/fail")
    assert [event.get("user") for event in usercontext_recorder.events] == [{"id": "ada"}, None]


def test_quart_auth_names_the_user_of_a_websocket(
    usercontext_recorder: RecordingClient,
) -> None:
    """Its cookie is read there too."""
    app = make_app(resolver=request_user)

    @app.websocket("/socket")
    async def socket() -> None:
        capture_message("hello")
        await quart.websocket.send("x")

    async def conversation() -> None:
        client = app.test_client()
        await client.get("/login/ada")
        async with client.websocket("/socket") as connection:
            await connection.receive()

    run(conversation)
    assert reported(usercontext_recorder) == ["ada"]


def test_only_the_singleton_of_quart_auth_is_asked() -> None:
    """Beside it an app may have others, for tokens of its services: `current_user` is none."""
    app = quart.Quart("shop")
    app.secret_key = "not a secret"
    names = {"attribute_name": "service", "cookie_name": "service", "salt": "service"}
    quart_auth.QuartAuth(app, singleton=False, **names)
    quart_auth.QuartAuth(app, mode="bearer")
    app.add_url_rule("/", view_func=lambda: {"id": seen()})
    UserContext(app, resolver=request_user)
    token = app.extensions["QUART_AUTH"][1].dump_token("ada", app=app)

    async def conversation() -> Any:
        headers = {"authorization": f"Bearer {token}"}
        return await (await app.test_client().get("/", headers=headers)).get_json()

    assert run(conversation) == {"id": "ada"}


def test_a_login_names_the_rest_of_its_request() -> None:
    """Who asks after `login_user` is told the new user."""
    app = make_app(resolver=request_user)

    @app.get("/enter")
    async def enter() -> Any:
        quart_auth.login_user(Account("ada"))
        return {"id": seen()}

    async def conversation() -> Any:
        return await (await app.test_client().get("/enter")).get_json()

    assert run(conversation) == {"id": "ada"}


def test_a_stream_outside_of_quarts_context_is_nobodys_by_itself(
    usercontext_recorder: RecordingClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Quart-Auth knows nobody there: a user who was known before stays known."""
    app = make_app(resolver=request_user)

    @app.get("/stream/<known>")
    async def stream(known: str) -> Any:
        if known == "known":
            get_user()

        async def chunks() -> AsyncIterator[str]:
            capture_message("hello")
            yield "x"

        return chunks()

    get(app, "/login/ada", "/stream/known", "/stream/unknown")
    assert reported(usercontext_recorder) == ["ada", None]
    assert caplog.records == []


def test_an_app_without_quart_auth_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The ready resolver says once what it needs."""
    app = quart.Quart("shop")
    app.add_url_rule("/", view_func=lambda: {"id": seen()})
    UserContext(app, resolver=request_user)
    get(app, "/", "/")
    (record,) = caplog.records
    assert "QuartAuth(app)" in record.message


# --- errors that name the fix ----------------------------------------------------------------


def test_a_second_context_is_refused() -> None:
    """Only one of them could be meant."""
    app = make_app()
    with pytest.raises(ConfigurationError, match="keep one, and give it all options"):
        UserContext(app)


def test_another_app_is_refused() -> None:
    """What is not a Quart app is wrapped in the middleware instead."""
    app: Any = UserContextMiddleware(make_app())
    with pytest.raises(ConfigurationError, match=r"UserContextMiddleware\(app\)"):
        UserContext(app)


def test_a_wrong_option_is_refused_before_there_is_an_app() -> None:
    """With an app factory the error is raised where the option stands."""
    with pytest.raises(ConfigurationError, match="resolver must be a function"):
        UserContext(resolver=3)  # type: ignore[arg-type]
