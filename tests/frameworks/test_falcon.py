"""Falcon, over WSGI and ASGI: errors that it answers are reported, its request is known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

falcon = pytest.importorskip("falcon")
pytest.importorskip("falcon.asgi")

from falcon import testing as falcon_testing  # noqa: E402

from usercontext import (  # noqa: E402
    ConfigurationError,
    User,
    asgi,
    bind,
    capture_exception,
    capture_message,
    get_user,
    init,
    resolve_user,
    wsgi,
)
from usercontext.core.record import UNKNOWN  # noqa: E402
from usercontext.frameworks.falcon import request_user, wrap  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from usercontext.testing import RecordingClient

ADA = {"X-User": "ada"}


class Authentication:
    """An app's own middleware, which leaves the user where Falcon's documentation says."""

    def process_request(self, req: Any, resp: Any) -> None:
        name = req.get_header("X-User")
        req.context.user = None if name is None else {"id": name, "scope": "orders:read"}

    async def process_request_async(self, req: Any, resp: Any) -> None:
        self.process_request(req, resp)

    async def process_request_ws(self, req: Any, ws: Any) -> None:
        self.process_request(req, None)


class Route:
    """A resource that does what a function says."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def on_get(self, req: Any, resp: Any) -> None:
        self.function(req, resp)


class AsyncRoute:
    """The same for an ASGI app, where the function may be `async def`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    async def on_get(self, req: Any, resp: Any) -> None:
        result = self.function(req, resp)
        if asyncio.iscoroutine(result):
            await result

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        self.function(req, ws)


def fail(_req: Any, _resp: Any) -> None:
    """Fail as a responder does."""
    raise LookupError("no such thing")


@pytest.fixture(params=["wsgi", "asgi"])
def interface(request: pytest.FixtureRequest) -> str:
    """Run a test over both interfaces."""
    return str(request.param)


def make_app(interface: str, function: Callable[..., Any] = fail) -> Any:
    """Make an app of which every request authenticates, and one route does what is said."""
    app: Any = falcon.App() if interface == "wsgi" else falcon.asgi.App()
    app.add_middleware(Authentication())
    app.add_route("/", Route(function) if interface == "wsgi" else AsyncRoute(function))
    return app


def get(application: Any, **headers: str) -> Any:
    """Send a request."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return falcon_testing.TestClient(application).simulate_get("/", headers=fields)


def users_of(recorder: RecordingClient) -> list[Any]:
    """Return the users that the reports name, in order."""
    return [event.get("user") for event in recorder.events]


# --- the ready resolver -------------------------------------------------------------------------


def test_a_swallowed_error_names_the_user(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """Falcon answers with its 500 as ever, and the report goes out, once, unhandled."""
    bare = get(make_app(interface), X_User="ada")
    answer = get(wrap(make_app(interface), resolver=request_user), X_User="ada")
    assert (answer.status_code, answer.text) == (500, bare.text)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_anonymous_request_is_nobodys(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """A context whose user is None names nobody, also after somebody's request."""
    application = wrap(make_app(interface), resolver=request_user)
    get(application, X_User="ada")
    get(application)
    assert users_of(usercontext_recorder) == [{"id": "ada"}, None]


def test_the_question_stays_open_until_the_context_has_a_user() -> None:
    """A middleware of the app may still authenticate the request."""
    request = falcon_testing.create_req()
    assert request_user(request) is UNKNOWN
    request.context.user = None
    assert request_user(request) is None


def test_of_claims_only_the_identity_is_taken() -> None:
    """What else a token says is nobody's business; a user object is left to `User.of`."""
    request = falcon_testing.create_req()
    request.context.user = {"id": 1, "email": "ada@shop.example", "ssn": "x"}
    assert request_user(request) == {"id": 1, "email": "ada@shop.example"}
    request.context.user = account = object()
    assert request_user(request) is account


def test_nothing_is_resolved_for_a_request_that_reports_nothing(interface: str) -> None:
    """The resolver runs when a report needs it, and not before."""
    calls: list[object] = []
    application = wrap(make_app(interface, lambda *_: None), resolver=calls.append)
    assert get(application).status_code == 200
    assert calls == []


def test_the_resolver_gets_falcons_request(interface: str) -> None:
    """The very request of the responder, with its context."""
    seen: list[Any] = []
    application = wrap(
        make_app(interface, lambda req, _: seen.append((get_user(), req))),
        resolver=seen.append,
    )
    get(application)
    resolved, (_, served) = seen
    assert resolved is served


def test_a_resolver_of_init_gets_falcons_request_too(interface: str) -> None:
    """Without one of its own, the app asks the process's, with the same request."""
    init(None, resolver=request_user)
    seen: list[Any] = []
    get(wrap(make_app(interface, lambda *_: seen.append(get_user()))), X_User="ada")
    assert seen == [User(id="ada")]


def test_an_outer_resolver_keeps_its_own_request(interface: str) -> None:
    """A resolver of a middleware further out gets the request that it was written for."""
    seen: list[Any] = []
    outer = wsgi if interface == "wsgi" else asgi
    application = outer.UserContextMiddleware(
        wrap(make_app(interface, lambda *_: get_user())),
        resolver=seen.append,
    )
    get(application)
    (request,) = seen
    assert not isinstance(request, falcon.Request)


def test_before_falcon_has_begun_the_resolver_gets_a_request(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """Asked early, it gets a request of Falcon's kind that has no context yet."""
    application = wrap(
        make_app(interface),
        resolver=lambda request: {"id": request.get_header("X-User")},
        resolve="eager",
    )
    get(application, X_User="ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_before_our_middleware_names_its_user(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """What fails in an app's own middleware is reported with the context as it was then."""

    class Failing(Authentication):
        def process_request(self, req: Any, resp: Any) -> None:
            super().process_request(req, resp)
            raise LookupError("no such session")

    app = make_app(interface)
    app.add_middleware(Failing())
    assert get(wrap(app, resolver=request_user), **ADA).status_code == 500
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_async_resolver_names_a_swallowed_error(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """It is awaited before the report goes out, or run aside over WSGI."""

    async def resolver(request: Any) -> object:
        await asyncio.sleep(0)
        return request_user(request)

    get(wrap(make_app(interface), resolver=resolver), X_User="ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


# --- errors that the app handles ----------------------------------------------------------------


def handler(interface: str, function: Callable[..., Any]) -> Any:
    """Make an error handler of what it does to the response."""

    def handle(req: Any, resp: Any, error: Exception, params: Any) -> None:
        function(resp, error)

    async def handle_async(req: Any, resp: Any, error: Exception, params: Any) -> None:
        function(resp, error)

    return handle if interface == "wsgi" else handle_async


def answering(status: int) -> Callable[..., None]:
    """Answer an error with a status."""

    def answer(resp: Any, error: Exception) -> None:
        resp.status = status

    return answer


def raising(status: int) -> Callable[..., None]:
    """Answer an error by raising one of Falcon's."""

    def answer(resp: Any, error: Exception) -> None:
        raise falcon.HTTPError(status)

    return answer


@pytest.mark.parametrize(
    ("kind", "answer", "reports"),
    [
        pytest.param(LookupError, answering(500), 0, id="a handler of its own"),
        pytest.param(Exception, answering(409), 0, id="of all errors, answered otherwise"),
        pytest.param(Exception, raising(409), 0, id="of all errors, raising otherwise"),
        pytest.param(Exception, answering(500), 1, id="of all errors, a page for the 500"),
        pytest.param(Exception, raising(500), 1, id="of all errors, raising a 500"),
    ],
)
def test_what_a_handler_of_the_app_makes_of_an_error(
    kind: Any,
    answer: Any,
    reports: int,
    interface: str,
    usercontext_recorder: RecordingClient,
) -> None:
    """Its response goes out as it is; only an error that ends as a 500 of all errors' is ours."""
    app = make_app(interface)
    app.add_error_handler(kind, handler(interface, answer))
    bare = get(app)
    assert get(wrap(app)).status == bare.status
    assert len(usercontext_recorder.events) == reports


def test_an_error_that_its_handler_reports_is_reported_once(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """A handler that reports, and then answers with a 500, has the only say."""

    def report(resp: Any, error: Exception) -> None:
        capture_exception(error)
        resp.status = 500

    app = make_app(interface)
    app.add_error_handler(Exception, handler(interface, report))
    get(wrap(app, resolver=request_user), X_User="ada")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


def test_a_handler_may_be_added_after_wrap(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """It only makes the page, as one that was added before: the order does not matter."""

    def answer(resp: Any, _error: Exception) -> None:
        resp.status = 500
        resp.text = "sorry"

    app = make_app(interface)
    wrapped = wrap(app, resolver=request_user)
    app.add_error_handler(Exception, handler(interface, answer))
    assert [get(wrapped, X_User="ada").text for _ in range(2)] == ["sorry"] * 2
    assert users_of(usercontext_recorder) == [{"id": "ada"}] * 2


def test_a_handler_finds_the_user_by_the_error(interface: str) -> None:
    """As the current user, and by the error alone."""
    seen: list[User | None] = []
    app = make_app(interface)
    look = handler(interface, lambda _, error: seen.extend([get_user(), get_user(error=error)]))
    app.add_error_handler(Exception, look)
    get(wrap(app, resolver=request_user), X_User="ada")
    assert seen == [User(id="ada")] * 2


def test_an_error_that_a_handler_passes_on_is_reported_once(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """What leaves Falcon is met by the middleware, and known to whoever is further out."""

    def pass_on(resp: Any, error: Exception) -> None:
        raise error

    app = make_app(interface)
    app.add_error_handler(Exception, handler(interface, pass_on))
    with pytest.raises(LookupError) as caught:
        get(wrap(app, resolver=request_user), X_User="ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]
    assert get_user(error=caught.value) == User(id="ada")


def test_falcons_own_errors_are_answers(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """A raised HTTPError or HTTPStatus is what the app has to say, and no report."""

    def answer(req: Any, resp: Any) -> None:
        raise falcon.HTTPServiceUnavailable

    assert get(wrap(make_app(interface, answer))).status_code == 503
    assert usercontext_recorder.events == []


def test_the_app_inside_another_middleware_reports_once(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """Ours around ours is as good as once."""
    outer = wsgi if interface == "wsgi" else asgi
    application = outer.UserContextMiddleware(wrap(make_app(interface), resolver=request_user))
    get(application, X_User="ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


# --- streams, events, websockets, background work -----------------------------------------------


def test_a_stream_of_bytes_knows_its_user(interface: str) -> None:
    """A generator runs after the responder, over WSGI even after Falcon: the user is known."""
    seen: list[User | None] = []

    def chunks() -> Iterator[bytes]:
        seen.append(get_user())
        yield b"x"

    async def chunks_async() -> AsyncIterator[bytes]:
        seen.append(get_user())
        yield b"x"

    def stream(req: Any, resp: Any) -> None:
        resp.stream = chunks() if interface == "wsgi" else chunks_async()

    answer = get(wrap(make_app(interface, stream), resolver=request_user), X_User="ada")
    assert answer.text == "x"
    assert seen == [User(id="ada")]


def test_an_error_in_a_stream_is_reported_once(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """It passes Falcon by, as the response is on its way."""

    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise LookupError("no more")

    async def chunks_async() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("no more")

    def stream(req: Any, resp: Any) -> None:
        resp.stream = chunks() if interface == "wsgi" else chunks_async()

    with pytest.raises(LookupError):
        get(wrap(make_app(interface, stream), resolver=request_user), X_User="ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_server_sent_events_know_their_user(usercontext_recorder: RecordingClient) -> None:
    """The emitter runs in the request, and so do the reports that it makes."""

    async def events() -> AsyncIterator[Any]:
        capture_message("an event")
        yield falcon.asgi.SSEvent(text="x")

    def emit(req: Any, resp: Any) -> None:
        resp.sse = events()

    answer = get(wrap(make_app("asgi", emit), resolver=request_user), X_User="ada")
    assert "x" in answer.text
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


async def close_code(application: Any) -> int:
    """Connect a websocket, and return the code that it is closed with."""
    async with (
        falcon_testing.ASGIConductor(application) as conductor,
        conductor.simulate_ws("/", headers=ADA) as ws,
    ):
        with pytest.raises(falcon.WebSocketDisconnected):
            await ws.receive_text()
        return int(ws.close_code)


def test_a_websockets_error_is_reported_with_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """Falcon closes the socket itself: the report names who had connected."""
    application = wrap(make_app("asgi"), resolver=request_user)
    assert asyncio.run(close_code(application)) == 1011
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_a_websocket_handler_of_the_app_is_given_the_socket(
    usercontext_recorder: RecordingClient,
) -> None:
    """A handler that takes `ws` closes it as before; what it answers cannot be seen."""

    async def handle(req: Any, resp: Any, error: Exception, params: Any, ws: Any = None) -> None:
        await ws.close(4000)

    app = make_app("asgi")
    app.add_error_handler(Exception, handle)
    assert asyncio.run(close_code(wrap(app, resolver=request_user))) == 4000
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_a_threads_work_takes_bind() -> None:
    """`sync_to_async` and `schedule_sync` start threads without the context; `bind` carries it."""
    seen: dict[str, User | None] = {}
    done = []

    async def work(req: Any, resp: Any) -> None:
        await resolve_user()
        seen["plain"] = await falcon.sync_to_async(get_user)
        seen["bound"] = await falcon.sync_to_async(bind(get_user))
        finished = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def later() -> None:
            seen["later"] = get_user()
            loop.call_soon_threadsafe(finished.set_result, None)

        async def scheduled() -> None:
            seen["scheduled"] = get_user()

        resp.schedule_sync(bind(later))
        resp.schedule(scheduled)
        done.append(finished)

    async def ask() -> None:
        application = wrap(make_app("asgi", work), resolver=request_user)
        async with falcon_testing.ASGIConductor(application) as conductor:
            await conductor.simulate_get("/", headers=ADA)
            await done[0]

    asyncio.run(ask())
    ada = User(id="ada")
    assert seen == {"plain": None, "bound": ada, "later": ada, "scheduled": ada}


# --- wrong set-ups ------------------------------------------------------------------------------


def test_the_app_itself_still_answers(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """Served in place of what wrap() returned, it works as ever, and reports nothing."""
    app = make_app(interface)
    wrap(app, resolver=request_user)
    assert get(app, X_User="ada").status_code == 500
    assert usercontext_recorder.events == []


def test_an_app_that_is_wrapped_already_is_refused(interface: str) -> None:
    """A second call would hide the first one's options."""
    with pytest.raises(ConfigurationError, match=r"wrapped already: call wrap\(\) once"):
        wrap(wrap(make_app(interface)))  # type: ignore[call-overload]


def test_what_is_no_falcon_app_is_refused(interface: str) -> None:
    """Wrapped by somebody else before, the app cannot be told of errors."""
    outer = wsgi if interface == "wsgi" else asgi
    around = outer.UserContextMiddleware(make_app(interface))
    with pytest.raises(ConfigurationError, match="not UserContextMiddleware: wrap the app itself"):
        wrap(around)  # type: ignore[call-overload]


def test_a_wrong_option_leaves_the_app_alone(interface: str) -> None:
    """An option that does not exist is named with the nearest that does."""
    app = make_app(interface)
    before = app._error_handlers[Exception]
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        wrap(app, resolvr=None)
    assert app._error_handlers[Exception] is before
