"""The WSGI middleware: one record a request, from the call to the end of its body."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from tests.driver import environ_of, plain_wsgi_app, wsgi_request
from usercontext import RequestData, User, get_user, set_user, testing
from usercontext.core.record import KEY, current
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ADA = User(id=1)
BOB = User(id=2)


def start(*_: object) -> Any:
    """Start a response as a server does."""
    return lambda _data: None


def answering(body: Any) -> Any:
    """Make an app that sets a user and answers with a body, or with what a function returns."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        set_user(ADA)
        start_response("200 OK", [("Content-Type", "text/plain")])
        result: Iterable[bytes] = body() if callable(body) else body
        return result

    return app


class Body:
    """A body that notes who the user is at every step."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen
        self.chunks = iter([b"1", b"2"])

    def __iter__(self) -> Body:
        self.seen.append(("iter", get_user()))
        return self

    def __next__(self) -> bytes:
        self.seen.append(("next", get_user()))
        return next(self.chunks)

    def close(self) -> None:
        self.seen.append(("close", get_user()))


def test_the_user_is_there_while_the_body_is_made_and_closed() -> None:
    """iter(), every chunk and close() run inside the request, after the app has returned."""
    seen: list[Any] = []
    assert wsgi_request(UserContextMiddleware(answering(lambda: Body(seen)))) == b"12"
    assert seen == [(step, ADA) for step in ("iter", "next", "next", "next", "close")]


def test_between_two_chunks_the_thread_is_nobodys() -> None:
    """Code of the server that runs between chunks, and after the body, sees no user."""
    body = UserContextMiddleware(answering(lambda: (chunk for chunk in (b"1", b"2"))))(
        environ_of(), start
    )
    seen = [current(), *(current() for _chunk in body)]
    body.close()  # type: ignore[attr-defined]
    assert [*seen, current()] == [None] * 4


def test_what_a_generator_body_sets_stays_in_its_request() -> None:
    """set_user in a streamed body is seen by the next chunk, and by no other request."""
    seen: list[User | None] = []

    def stream() -> Iterator[bytes]:
        set_user(BOB)
        yield b"1"
        seen.append(get_user())
        yield b"2"

    wsgi_request(UserContextMiddleware(answering(stream)))
    wsgi_request(UserContextMiddleware(plain_wsgi_app(lambda: seen.append(get_user()))))
    assert seen == [BOB, None]


def test_a_body_may_be_closed_in_another_thread() -> None:
    """close() from a thread of the server's runs inside the request and leaves nothing there."""
    seen: list[Any] = []
    body: Any = UserContextMiddleware(answering(lambda: Body(seen)))(environ_of(), start)
    left: list[Any] = []

    def close() -> None:
        body.close()
        left.append(current())

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert seen == [("close", ADA)]
    assert left == [None]


@pytest.mark.parametrize("body", [[b"1"], (b"1", b"2"), []])
def test_a_list_or_tuple_is_returned_as_it_is(body: Any) -> None:
    """A body that runs no code needs no wrapping, and its request ends at once."""
    environ = environ_of()
    assert UserContextMiddleware(answering(body))(environ, start) is body
    assert environ[KEY].ended is not None


def test_a_file_is_returned_as_it_is() -> None:
    """A file wrapper, or an object with fileno, reaches the server's sendfile untouched."""
    wrapped = FileWrapper(io.BytesIO(b"file"))
    environ = {**environ_of(), "wsgi.file_wrapper": FileWrapper}
    assert UserContextMiddleware(answering(wrapped))(environ, start) is wrapped
    with open(__file__, "rb") as file:  # noqa: PTH123
        assert UserContextMiddleware(answering(file))(environ_of(), start) is file


def test_a_body_with_a_length_keeps_it() -> None:
    """Servers write Content-Length for a body of one chunk: len() still answers."""

    class Sized(Body):
        def __len__(self) -> int:
            return 1

    body = UserContextMiddleware(answering(lambda: Sized([])))(environ_of(), start)
    assert len(body) == 1  # type: ignore[arg-type]
    unsized = UserContextMiddleware(answering(lambda: Body([])))(environ_of(), start)
    assert not hasattr(unsized, "__len__")


@pytest.mark.parametrize(
    "body", [[b"ok"], lambda: (chunk for chunk in (b"o", b"k"))], ids=["list", "generator"]
)
@pytest.mark.parametrize("clients", [[], [testing.RecordingClient(recording=True)]])
def test_it_passes_the_validator_on_both_sides(body: Any, clients: list[Any]) -> None:
    """Wsgiref's validator finds nothing wrong with us, as an app or as a server."""
    app = validator(UserContextMiddleware(validator(answering(body)), clients=clients))
    environ = environ_of()
    environ["wsgi.errors"] = io.StringIO()
    environ["wsgi.input"] = io.BytesIO()
    result = app(environ, _validated_start)
    try:
        assert b"".join(result) == b"ok"
    finally:
        result.close()  # type: ignore[attr-defined]


def _validated_start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
    return lambda _data: None


def test_the_write_callable_is_the_servers() -> None:
    """What start_response returns reaches the app, which may write by it."""
    written: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"1")
        return []

    for clients in ([], [testing.RecordingClient()]):
        UserContextMiddleware(app, clients=clients)(environ_of(), lambda *_: written.append)
    assert written == [b"1", b"1"]


def test_an_error_finds_the_address_of_nobody_further_out() -> None:
    """A handler outside of us learns whence the request came, also where nobody was asked."""

    def fail(environ: Any, start_response: Any) -> Any:
        raise LookupError

    app = UserContextMiddleware(fail, request_data=RequestData(include_ip=True))
    with pytest.raises(LookupError) as caught:
        wsgi_request(app, {**environ_of(), "REMOTE_ADDR": "203.0.113.9"})
    assert get_user(error=caught.value) == User(ip_address="203.0.113.9")


@pytest.mark.parametrize("step", ["call", "iter", "next", "close"])
def test_an_error_passes_unchanged_and_is_reported_once(
    step: str, usercontext_recorder: testing.RecordingClient
) -> None:
    """Wherever the app fails, the exception is re-raised, and one report names the user."""
    error = LookupError()

    class Failing(Body):
        def __init__(self) -> None:
            super().__init__([])
            self.fail("call")

        def fail(self, here: str) -> None:
            if here == step:
                raise error

        def __iter__(self) -> Failing:
            self.fail("iter")
            return self

        def __next__(self) -> bytes:
            self.fail("next")
            return next(self.chunks)

        def close(self) -> None:
            self.fail("close")

    with pytest.raises(LookupError) as caught:
        wsgi_request(UserContextMiddleware(answering(Failing)))
    assert caught.value is error
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "1"}
    assert get_user(error=error) == ADA


def test_what_is_no_exception_passes_unreported(
    usercontext_recorder: testing.RecordingClient,
) -> None:
    """KeyboardInterrupt and the like end the request and are none of a report's business."""

    def stop() -> None:
        raise KeyboardInterrupt

    environ = environ_of()
    with pytest.raises(KeyboardInterrupt):
        wsgi_request(UserContextMiddleware(plain_wsgi_app(stop)), environ)
    assert usercontext_recorder.events == []
    assert environ[KEY].ended is not None
    assert current() is None


def test_wrapped_twice_is_harmless() -> None:
    """Two wrappings share one record, and the body is the user's until it is closed."""
    seen: list[Any] = []
    app = UserContextMiddleware(UserContextMiddleware(answering(lambda: Body(seen))))
    assert wsgi_request(app) == b"12"
    assert {user for _, user in seen} == {ADA}


def test_a_wsgi_app_inside_an_asgi_one_shares_its_record() -> None:
    """environ["asgi.scope"] tells that the request has a record already."""
    from tests.driver import asgi_request, scope_of
    from usercontext import asgi

    seen: list[User | None] = []
    inner = UserContextMiddleware(plain_wsgi_app(lambda: seen.append(get_user())))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        wsgi_request(inner, {**environ_of(), "asgi.scope": scope})

    asgi_request(asgi.UserContextMiddleware(app), scope_of())
    assert seen == [ADA]


def test_a_mounted_apps_own_resolver_names_its_users() -> None:
    """An inner middleware's resolver applies from there on."""
    seen: list[User | None] = []
    inner = UserContextMiddleware(
        plain_wsgi_app(lambda: seen.append(get_user())), resolver=lambda _: BOB
    )

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(get_user())
        return inner(environ, start_response)

    wsgi_request(UserContextMiddleware(app, resolver=lambda _: ADA))
    assert seen == [ADA, BOB]


def test_the_address_is_the_peers() -> None:
    """include_ip reports REMOTE_ADDR, and a forwarding header changes nothing."""
    seen: list[User | None] = []
    app = UserContextMiddleware(
        plain_wsgi_app(lambda: seen.append(get_user())), request_data=RequestData(include_ip=True)
    )
    wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))
    assert seen == [User(ip_address="203.0.113.9")]


# What a resolver may read of its request, beside what Werkzeug's own says there.
READ = ["method", "path", "url", "remote_addr", "args", "cookies", "headers", "authorization"]


@pytest.mark.parametrize("first", [*READ, "shallow"])
def test_a_resolver_reads_what_werkzeug_would_say(first: str) -> None:
    """The request is filled when it is needed, whatever is asked for first."""
    environ = environ_of(cookie="theme=dark", authorization="Bearer x") | {"QUERY_STRING": "page=2"}
    werkzeug = pytest.importorskip("werkzeug")
    seen: list[Any] = []

    def resolver(request: Any) -> None:
        seen.extend(getattr(request, name) for name in (first, *READ))
        seen.append(request.shallow)

    wsgi_request(UserContextMiddleware(plain_wsgi_app(get_user), resolver=resolver), environ)
    expected = werkzeug.Request(environ, populate_request=False, shallow=True)
    assert seen == [getattr(expected, name) for name in (first, *READ, "shallow")]


def test_a_request_has_no_more_than_werkzeugs() -> None:
    """A misspelt attribute is an AttributeError, before and after the request was filled."""
    pytest.importorskip("werkzeug")
    seen: list[bool] = []

    def resolver(request: Any) -> None:
        seen.extend([hasattr(request, "user"), hasattr(request, "path"), hasattr(request, "user")])

    wsgi_request(UserContextMiddleware(plain_wsgi_app(get_user), resolver=resolver))
    assert seen == [False, True, False]
