"""Django: errors that it swallows are reported with the request's own user, sync and async."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")

from tests.frameworks.django_project import (
    AUTHENTICATION,
    OURS,
    log_in,
    migrate,
    serve_asgi,
    serve_wsgi,
    status_of,
)

# isort: split
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.test import (
    AsyncClient,
    AsyncRequestFactory,
    Client,
    RequestFactory,
    override_settings,
)
from django.urls import path

from usercontext import (
    ConfigurationError,
    RequestData,
    asgi,
    capture_exception,
    capture_message,
    get_user,
    init,
    resolve_user,
    set_user,
    wsgi,
)
from usercontext.core.record import KEY
from usercontext.frameworks.django import UserContextMiddleware
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from django.http import HttpRequest

seen: list[Any] = []


class Account:
    """A model as `request.user` gives it, with a field that must never leave."""

    is_authenticated = True
    is_anonymous = False

    def __init__(self, name: str) -> None:
        self.pk = name
        self.email = f"{name}@shop.example"
        self.password = "x"

    def get_username(self) -> str:
        return self.pk


def fail(request: HttpRequest) -> HttpResponse:
    """Fail as a view does, its user read by nobody before."""
    raise LookupError("no such thing")


def fail_as_ada(request: HttpRequest) -> HttpResponse:
    """Fail where a middleware of the app has put a user."""
    request.user = Account("ada")
    raise LookupError("no such thing")


async def fail_async(request: HttpRequest) -> HttpResponse:
    """Fail in an async view, its user awaited by nobody."""
    raise LookupError("no such thing")


async def fail_async_as_ada(request: HttpRequest) -> HttpResponse:
    """Fail in an async view that has awaited its user."""
    request._acached_user = Account("ada")
    raise LookupError("no such thing")


def answered(request: HttpRequest) -> HttpResponse:
    """Fail in a way that Django answers with a 4xx."""
    raise {"404": Http404, "403": PermissionDenied}[request.GET.get("as", "404")]


def me(request: HttpRequest) -> HttpResponse:
    """Note who the user is."""
    user = get_user()
    seen.append(None if user is None else user.to_dict())
    return HttpResponse("ok")


async def me_awaited(request: HttpRequest) -> HttpResponse:
    """Note who the user is in an async view."""
    user = await resolve_user()
    seen.append(None if user is None else user.to_dict())
    return HttpResponse("ok")


def message(request: HttpRequest) -> HttpResponse:
    """Report something, and answer well."""
    capture_message("hello")
    return HttpResponse("ok")


async def message_async(request: HttpRequest) -> HttpResponse:
    """Report something in an async view, and answer well."""
    capture_message("hello")
    return HttpResponse("ok")


def caught(request: HttpRequest) -> HttpResponse:
    """Report an error while the transaction that it broke is still open."""
    try:
        with transaction.atomic():
            transaction.set_rollback(True)
            capture_exception(LookupError("no such thing"))
    finally:
        seen.append(connections["default"].in_atomic_block)
    return HttpResponse("ok")


def broken(request: HttpRequest) -> HttpResponse:
    """Fail within the transaction of ATOMIC_REQUESTS, after a report in it."""
    transaction.set_rollback(True)
    capture_message("hello")
    raise LookupError("no such thing")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Set a user, and stream a body that notes it."""
    set_user({"id": 7})

    def chunks() -> Iterator[bytes]:
        seen.append(get_user())
        yield b"x"
        if request.headers.get("x-fail"):
            raise LookupError("no such thing")

    return StreamingHttpResponse(chunks())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    """Set a user, and stream an async body that notes it."""
    set_user({"id": 7})

    async def chunks() -> AsyncIterator[bytes]:
        seen.append(get_user())
        yield b"x"
        if request.headers.get("x-fail"):
            raise LookupError("no such thing")

    return StreamingHttpResponse(chunks())


def stream_message(request: HttpRequest) -> StreamingHttpResponse:
    """Stream a body that reports something."""

    def chunks() -> Iterator[bytes]:
        capture_message("hello")
        yield b"x"

    return StreamingHttpResponse(chunks())


async def stream_message_async(request: HttpRequest) -> StreamingHttpResponse:
    """Stream an async body that reports something."""

    async def chunks() -> AsyncIterator[bytes]:
        capture_message("hello")
        yield b"x"

    return StreamingHttpResponse(chunks())


def file(request: HttpRequest) -> FileResponse:
    """Answer with a file."""
    return FileResponse(open(__file__, "rb"))  # noqa: PTH123 - Django closes it


def where(request: HttpRequest) -> HttpResponse:
    """Note the thread of a sync view."""
    seen.append(threading.get_ident())
    return HttpResponse("ok")


async def where_async(request: HttpRequest) -> HttpResponse:
    """Note the thread of an async view."""
    seen.append(threading.get_ident())
    return HttpResponse("ok")


class Answering:
    """A middleware that handles the errors of views itself."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = self.get_response(request)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse:
        return HttpResponse("handled", status=409)


def handler500(request: HttpRequest) -> HttpResponse:
    """Answer an error, noting who is seen there."""
    user = get_user()
    seen.append(None if user is None else user.id)
    return HttpResponse("my own page", status=500)


urlpatterns = [
    path("fail", fail),
    path("fail-as-ada", fail_as_ada),
    path("fail-async", fail_async),
    path("fail-async-as-ada", fail_async_as_ada),
    path("answered", answered),
    path("me", me),
    path("me-awaited", me_awaited),
    path("message", message),
    path("message-async", message_async),
    path("caught", caught),
    path("broken", broken),
    path("stream", stream),
    path("stream-async", stream_async),
    path("stream-message", stream_message),
    path("stream-message-async", stream_message_async),
    path("file", file),
    path("where", where),
    path("where-async", where_async),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    seen.clear()
    migrate()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=AUTHENTICATION):
        yield
    connections.close_all()


def by_header(request: HttpRequest) -> dict[str, str] | None:
    """Name the user that a header names, or nobody."""
    name = request.headers.get("x-user")
    return None if name is None else {"id": name}


def names(recorder: RecordingClient) -> list[str | None]:
    """Return who each report names, in order of the reports."""
    return [(event.get("user") or {}).get("username") for event in recorder.events]


# Errors


def test_a_swallowed_error_names_djangos_own_user(usercontext_recorder: RecordingClient) -> None:
    """Without a resolver the report names request.user: four fields, and never the model."""
    serve_wsgi("fail-as-ada")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "username": "ada", "email": "ada@shop.example"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize("target", ["fail", "fail-async", "message", "message-async"])
def test_who_has_logged_in_is_named(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """Sync and async views, over WSGI and ASGI, name the user of the session, and once."""
    serve(target, cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
@pytest.mark.parametrize("target", ["fail", "fail-async", "message", "message-async"])
def test_a_visitor_is_nobody(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """AnonymousUser is not a user, also right after somebody's request."""
    serve(target, cookie=log_in("ada"))
    serve(target)
    assert names(usercontext_recorder) == ["ada", None]


def test_an_async_views_error_names_the_user_it_awaited(
    usercontext_recorder: RecordingClient,
) -> None:
    """What `await request.auser()` found is read, and never request.user (defect 6)."""
    assert status_of(serve_asgi("fail-async-as-ada")) == 500
    assert names(usercontext_recorder) == ["ada"]


def test_what_django_answers_with_a_4xx_is_no_error(
    usercontext_recorder: RecordingClient,
) -> None:
    """Http404 and PermissionDenied are answers: nothing is reported, and nobody asked."""
    client = Client(raise_request_exception=False)
    for query in ("404", "403"):
        client.get(f"/answered?as={query}")
    assert usercontext_recorder.events == []


@override_settings(MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.Answering"])
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_an_error_that_a_middleware_handles_is_the_apps(
    serve: Any, usercontext_recorder: RecordingClient
) -> None:
    """What a `process_exception` answers is not an unhandled error."""
    serve("fail", cookie=log_in("ada"))
    assert usercontext_recorder.events == []


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "fail"), (serve_asgi, "fail"), (serve_asgi, "fail-async")]
)
def test_handler500_sees_the_user(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """A page of one's own for errors knows whose error it was; it is still reported once."""
    with override_settings(USERCONTEXT={"resolver": by_header}):
        serve(target, x_user="eve")
    assert seen == ["eve"]
    assert len(usercontext_recorder.events) == 1


@override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True)
def test_an_error_that_django_lets_pass_is_reported_once(
    usercontext_recorder: RecordingClient,
) -> None:
    """What was announced, and then raised through us and the wrapper, is one report."""
    with pytest.raises(LookupError):
        serve_wsgi("fail", wrap=wsgi.UserContextMiddleware, cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]
    assert get_user() is None


def test_the_error_of_a_middleware_further_out_is_reported(
    usercontext_recorder: RecordingClient,
) -> None:
    """Where ours is not first, what fails outside is nobody's error, but not lost."""

    def failing(get_response: Any) -> Any:
        def middleware(request: HttpRequest) -> HttpResponse:
            raise LookupError("before ours")

        return middleware

    globals()["failing"] = failing
    with override_settings(MIDDLEWARE=[f"{__name__}.failing", *AUTHENTICATION]):
        serve_wsgi("me", cookie=log_in("ada"))
    assert names(usercontext_recorder) == [None]


@pytest.fixture
def connecting() -> Iterator[list[str]]:
    """The names of the threads that have connected to the database."""
    threads: list[str] = []

    def note(**_: Any) -> None:
        threads.append(threading.current_thread().name)

    connection_created.connect(note)
    yield threads
    connection_created.disconnect(note)


@pytest.mark.parametrize("target", ["fail", "fail-async"])
def test_an_error_over_asgi_opens_no_connection_in_a_pool_thread(
    target: str, connecting: list[str], usercontext_recorder: RecordingClient
) -> None:
    """The user is found where Django queries: elsewhere nobody would close the connection."""
    serve_asgi(target, cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]
    assert [name for name in connecting if name.startswith("asyncio")] == []


def failing_inside(get_response: Any) -> Any:
    """Fail in a middleware that is async itself."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        raise LookupError("inside ours")

    return markcoroutinefunction(middleware)


failing_inside.async_capable = True  # type: ignore[attr-defined]


@override_settings(
    # Without a handler500, which Django would run in a thread of the pool as well.
    ROOT_URLCONF="tests.frameworks.django_project",
    MIDDLEWARE=[*AUTHENTICATION, f"{__name__}.failing_inside"],
)
def test_an_async_middlewares_error_waits_for_the_user(
    connecting: list[str], usercontext_recorder: RecordingClient
) -> None:
    """No `process_exception` is called for it: its report waits until `auser()` can be awaited."""
    serve_asgi("me", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]
    assert [name for name in connecting if name.startswith("asyncio")] == []


def test_a_report_in_a_broken_transaction_waits_for_its_end(
    usercontext_recorder: RecordingClient,
) -> None:
    """Where no query is possible the question stays open, and is answered after it."""
    serve_wsgi("caught", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


def test_a_request_that_was_one_transaction_names_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """ATOMIC_REQUESTS: the error is reported after the rollback, with what waited before it."""
    cookie = log_in("ada")
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    try:
        serve_wsgi("broken", cookie=cookie)
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False
    assert names(usercontext_recorder) == ["ada", "ada"]


# Resolvers


@pytest.mark.parametrize("resolver", [by_header, "tests.frameworks.django_resolver.by_header"])
def test_the_resolver_gets_djangos_request(
    resolver: Any, usercontext_recorder: RecordingClient
) -> None:
    """USERCONTEXT names the resolver, as a function or as a dotted path."""
    with override_settings(USERCONTEXT={"resolver": resolver}):
        serve_wsgi("fail", x_user="bob")
        serve_asgi("fail-async", x_user="eve")
    assert [event["user"] for event in usercontext_recorder.events] == [
        {"id": "bob"},
        {"id": "eve"},
    ]


def test_the_resolver_of_init_gets_djangos_request(
    usercontext_recorder: RecordingClient,
) -> None:
    """Without one of its own the middleware asks that of `init()`."""
    init(client=usercontext_recorder, resolver=by_header)
    serve_wsgi("fail", x_user="bob", cookie=log_in("ada"))
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "bob"}


def test_an_async_resolver_completes_the_report(usercontext_recorder: RecordingClient) -> None:
    """The report of an async chain waits for an async resolver until the request's end."""

    async def resolver(request: HttpRequest) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    with override_settings(USERCONTEXT={"resolver": resolver}):
        serve_asgi("fail-async", x_user="eve")
    assert [event.get("user") for event in usercontext_recorder.events] == [{"id": "eve"}]


def test_an_eager_resolver_is_asked_before_the_view(
    usercontext_recorder: RecordingClient,
) -> None:
    """A view sees who it is by peeking; nobody found that early is not a final answer."""
    with override_settings(USERCONTEXT={"resolver": by_header, "resolve": "eager"}):
        serve_wsgi("me", x_user="bob")
        serve_asgi("me", x_user="eve")
    assert seen == [{"id": "bob"}, {"id": "eve"}]
    with override_settings(USERCONTEXT={"resolve": "eager"}):
        serve_wsgi("fail", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


@pytest.mark.parametrize(("serve", "target"), [(serve_wsgi, "fail"), (serve_asgi, "fail-async")])
def test_nobody_found_before_the_view_is_asked_for_again(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """An eager resolver may come before whatever authenticates."""
    answers = [{"id": "late"}, None]
    options = {"resolver": lambda request: answers.pop(), "resolve": "eager"}
    with override_settings(USERCONTEXT=options):
        serve(target)
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "late"}]


def test_an_async_view_awaits_its_user() -> None:
    """`await resolve_user()` asks `request.auser()`, which an async view need not do itself."""
    serve_asgi("me-awaited", cookie=log_in("ada"))
    assert [user["username"] for user in seen] == ["ada"]


# Records and threads


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_inside_the_wrapping_middleware_there_is_one_record(
    interface: str, usercontext_recorder: RecordingClient
) -> None:
    """The middleware that wraps the application and Django's share one request and one report."""

    def wrap(app: Any) -> Any:
        module = wsgi if interface == "wsgi" else asgi
        return module.UserContextMiddleware(
            app, resolver=by_header, request_data=RequestData(include_ip=True)
        )

    (serve_wsgi if interface == "wsgi" else serve_asgi)("fail", wrap=wrap, x_user="eve")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "eve", "ip_address": "203.0.113.9"}


@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_inside_a_wrapper_without_resolver_django_is_asked(
    serve: Any, usercontext_recorder: RecordingClient
) -> None:
    """The recommended way: the wrapper isolates, and `request.user` names the user."""
    module = wsgi if serve is serve_wsgi else asgi
    serve("fail", wrap=module.UserContextMiddleware, cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


@override_settings(USERCONTEXT={"resolver": by_header})
def test_options_that_contradict_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two resolvers in two places: the setting's applies inside Django, and the log says so."""
    app = wsgi.UserContextMiddleware(WSGIHandler(), resolver=lambda request: {"id": "outer"})
    for _ in range(2):
        serve_wsgi("me", wrap=lambda _: app, x_user="inner")
    assert seen == [{"id": "inner"}] * 2
    assert [record.message for record in caplog.records if "both have resolver" in record.message]
    assert len(caplog.records) == 1


@override_settings(MIDDLEWARE=[OURS, *AUTHENTICATION])
def test_listed_twice_is_harmless(usercontext_recorder: RecordingClient) -> None:
    """The second one shares the record of the first."""
    serve_wsgi("fail", cookie=log_in("ada"))
    serve_asgi("fail", cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada", "ada"]


def asynchronous(get_response: Any) -> Any:
    """Note the thread of an async middleware that stands outside of ours."""

    def middleware(request: HttpRequest) -> Any:
        seen.append(threading.get_ident())
        return get_response(request)

    if iscoroutinefunction(get_response):
        markcoroutinefunction(middleware)
    return middleware


asynchronous.sync_capable = asynchronous.async_capable = True  # type: ignore[attr-defined]


@override_settings(
    MIDDLEWARE=[f"{__name__}.asynchronous", OURS, f"{__name__}.asynchronous"], DEBUG=True
)
@pytest.mark.parametrize(("serve", "target"), [(serve_wsgi, "where"), (serve_asgi, "where-async")])
def test_no_thread_is_changed(serve: Any, target: str, caplog: pytest.LogCaptureFixture) -> None:
    """View and middlewares on both sides of ours run in one thread, and Django adapts nothing."""
    caplog.set_level(logging.DEBUG, logger="django.request")
    serve(target)
    assert len(seen) == 3
    assert set(seen) == {threading.get_ident()}
    assert [record for record in caplog.records if "adapted" in record.message] == []


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "stream"), (serve_asgi, "stream-async")]
)
def test_a_streamed_body_knows_its_user(serve: Any, target: str) -> None:
    """A body that is iterated after the middleware returned still runs in its request."""
    serve(target)
    assert [user.id for user in seen] == ["7"]
    assert get_user() is None


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "stream"), (serve_asgi, "stream-async")]
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_body_that_fails_is_reported(
    serve: Any, target: str, is_wrapped: bool, usercontext_recorder: RecordingClient
) -> None:
    """Django announces no error of a stream: it is reported all the same, and once."""
    module = wsgi if serve is serve_wsgi else asgi
    wrapping: Any = {"wrap": module.UserContextMiddleware} if is_wrapped else {}
    with pytest.raises(LookupError):
        serve(target, x_fail="yes", **wrapping)
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "7"}]


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "stream-message"), (serve_asgi, "stream-message-async")]
)
def test_a_report_of_a_body_names_who_has_logged_in(
    serve: Any, target: str, usercontext_recorder: RecordingClient
) -> None:
    """`request.user` is asked from inside a stream, too."""
    serve(target, cookie=log_in("ada"))
    assert names(usercontext_recorder) == ["ada"]


def test_a_file_is_left_to_the_server() -> None:
    """Wrapped, a FileResponse would lose the server's own `wsgi.file_wrapper`."""
    wrapped: list[Any] = []

    class FileWrapper:
        def __init__(self, opened: Any, _size: int = 0) -> None:
            wrapped.append(opened)
            self.close = opened.close

    environ = {**RequestFactory().get("/file").environ, "wsgi.file_wrapper": FileWrapper}
    body = WSGIHandler()(environ, lambda *_: None)
    assert isinstance(body, FileWrapper)
    body.close()


def test_one_request_never_shows_another_ones_user() -> None:
    """Nobody's request after somebody's is nobody's, in the same thread and loop."""
    for serve, target in ((serve_wsgi, "stream"), (serve_asgi, "stream-async")):
        serve(target)
        serve("me")
    assert seen[1::2] == [None, None]


def test_requests_of_one_loop_are_told_apart() -> None:
    """A hundred requests at once, each with its own user or nobody."""

    async def ask(client: AsyncClient, number: int) -> None:
        headers = {} if number % 3 == 0 else {"x-user": str(number)}
        await client.get("/me-awaited", headers=headers)

    async def ask_all() -> None:
        client = AsyncClient()
        await asyncio.gather(*(ask(client, number) for number in range(100)))

    with override_settings(USERCONTEXT={"resolver": by_header}):
        asyncio.run(ask_all())
    expected = [None if number % 3 == 0 else {"id": str(number)} for number in range(100)]
    assert sorted(seen, key=str) == sorted(expected, key=str)


# Reporting clients


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_clients_of_the_setting_are_told(serve: Any, is_wrapped: bool) -> None:
    """A client that sends every request gets its user when the response starts, also alone."""
    recorder = RecordingClient(recording=True)
    module = wsgi if serve is serve_wsgi else asgi
    wrapping: Any = {"wrap": module.UserContextMiddleware} if is_wrapped else {}
    with override_settings(USERCONTEXT={"clients": [recorder], "resolver": by_header}):
        serve("me", x_user="eve", **wrapping)
        serve("message", **wrapping)
    assert {"id": "eve"} in recorder.users
    assert recorder.users[-1] is None


@pytest.mark.parametrize(
    ("serve", "target"),
    [(serve_wsgi, "me"), (serve_wsgi, "stream"), (serve_asgi, "me"), (serve_asgi, "stream-async")],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_clients_of_the_setting_are_isolated(serve: Any, target: str, is_wrapped: bool) -> None:
    """Each request has the scope of its clients opened and closed, streamed or not."""
    module = wsgi if serve is serve_wsgi else asgi
    wrapping: Any = {"wrap": module.UserContextMiddleware} if is_wrapped else {}
    client = Scoped()
    with override_settings(USERCONTEXT={"clients": [client]}):
        serve(target, **wrapping)
    assert client.noted == ["opened", "closed"]


class Scoped(RecordingClient):
    """A client with a scope for each request."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def request_scope(self, get_user: Any) -> Scoped:
        return self

    def __enter__(self) -> None:
        self.noted.append("opened")

    def __exit__(self, *_: object) -> None:
        self.noted.append("closed")


@pytest.mark.parametrize(
    ("serve", "target"), [(serve_wsgi, "stream"), (serve_asgi, "stream-async")]
)
def test_clients_are_told_again_whom_the_view_has_set(serve: Any, target: str) -> None:
    """What has begun since then, such as a trace, gets the user when the response starts."""
    recorder = RecordingClient(recording=True)
    with override_settings(USERCONTEXT={"clients": [recorder]}):
        serve(target)
    assert recorder.users == [{"id": "7"}, {"id": "7"}]


@override_settings(MIDDLEWARE=[OURS])
@pytest.mark.parametrize("serve", [serve_wsgi, serve_asgi])
def test_clients_are_told_the_address_of_nobody(serve: Any) -> None:
    """Where nothing says who it is, an address that was asked for is pushed alone."""
    recorder = RecordingClient(recording=True)
    options = {"clients": [recorder], "request_data": RequestData(include_ip=True)}
    with override_settings(USERCONTEXT=options):
        serve("where")
    assert recorder.users == [{"ip_address": "203.0.113.9"}]


# Requests made by hand, and configuration


def test_a_request_that_is_cancelled_ends() -> None:
    """Cancellation passes, and leaves neither a user nor an open request behind."""

    async def cancelled(request: HttpRequest) -> HttpResponse:
        set_user({"id": 7})
        raise asyncio.CancelledError

    async def serve(request: HttpRequest) -> None:
        with pytest.raises(asyncio.CancelledError):
            await UserContextMiddleware(cancelled)(request)
        assert get_user() is None

    request = AsyncRequestFactory().get("/")
    client = Scoped()
    with override_settings(USERCONTEXT={"clients": [client]}):
        asyncio.run(serve(request))
    assert request.scope[KEY].ended is not None
    assert client.noted == ["opened", "closed"]


def test_a_middleware_that_rewrites_the_peer(usercontext_recorder: RecordingClient) -> None:
    """What a middleware inside makes of REMOTE_ADDR, as many do, is not taken for the peer."""

    def view(request: HttpRequest) -> HttpResponse:
        request.META["REMOTE_ADDR"] = "6.6.6.6"
        return message(request)

    request_data = RequestData(include_ip=True, trusted_proxies=["10.0.0.1"])
    with override_settings(USERCONTEXT={"request_data": request_data}):
        headers = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.9"}
        UserContextMiddleware(view)(RequestFactory().get("/", **headers))
    (event,) = usercontext_recorder.events
    assert event["user"] == {"ip_address": "203.0.113.9"}


def announce(request: HttpRequest) -> HttpResponse:
    """Announce an error as other packages do, without its request."""
    try:
        raise LookupError("no such thing")
    except LookupError:
        got_request_exception.send(sender=None)
    return HttpResponse("ok")


def test_an_error_announced_without_its_request(usercontext_recorder: RecordingClient) -> None:
    """The current request's user is named; outside of one, or without an error, nothing happens."""
    request = RequestFactory().get("/")
    request.user = Account("ada")
    UserContextMiddleware(announce)(request)
    assert names(usercontext_recorder) == ["ada"]
    announce(request)
    got_request_exception.send(sender=None, request=request)
    assert len(usercontext_recorder.events) == 1


def test_a_request_factorys_request_is_served() -> None:
    """The middleware works on views alone, as unit tests call them."""
    request = RequestFactory().get("/")
    request.user = Account("ada")
    UserContextMiddleware(me)(request)
    request = AsyncRequestFactory().get("/")
    request.user = Account("bob")
    asyncio.run(UserContextMiddleware(me_awaited)(request))
    assert [user["username"] for user in seen] == ["ada", "bob"]


def test_a_request_names_its_user_afterwards() -> None:
    """`get_user(request=...)` finds the user of a request that is over."""
    request = RequestFactory().get("/")
    request.user = Account("ada")
    UserContextMiddleware(me)(request)
    user = get_user(request=request)
    assert user is not None
    assert user.id == "ada"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (5, r"settings\.USERCONTEXT must be a dict, not int"),
        ({"resolvr": None}, r'settings\.USERCONTEXT\["resolvr"\].*did you mean resolver'),
        ({"resolve": "never"}, r'settings\.USERCONTEXT\["resolve"\].*"eager"'),
        ({"resolver": "shop.nowhere.find"}, r"'shop.nowhere.find' cannot be imported.*dotted path"),
        ({"resolver": "nodots"}, r'\["resolver"\].*cannot be imported.*dotted path'),
        ({"resolver": 7}, r'settings\.USERCONTEXT\["resolver"\].*write resolver='),
    ],
)
def test_a_wrong_setting_names_itself(setting: Any, message: str) -> None:
    """A wrong USERCONTEXT raises when Django loads the middleware, with its key and the fix."""
    with override_settings(USERCONTEXT=setting), pytest.raises(ConfigurationError, match=message):
        WSGIHandler()


@pytest.mark.parametrize("handler", [WSGIHandler, ASGIHandler])
def test_around_an_application_it_says_what_is_meant(handler: Any) -> None:
    """The class of the same name in the wrong place raises, and does not fail at each request."""
    with pytest.raises(ConfigurationError, match=r"belongs in MIDDLEWARE.*usercontext\.wsgi"):
        UserContextMiddleware(handler())
