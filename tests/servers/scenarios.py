"""What every framework and server pair must pass.

A scenario is a function of a `Target`; its docstring is the fact that it shows. Users are named
anew for each request, so that one who turns up elsewhere is always a leak.
"""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.servers.driver import Asked, Connection, ConnectionLostError, Observer, Response
from tests.servers.users import assert_seen, belong, fresh, known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.frameworks import Framework
    from tests.servers.servers import Running, Server

__all__ = ["SCENARIOS", "Scenario", "Target"]

LARGE = b"x" * 200_000
NOBODY = "nobody"


@dataclass
class Target:
    """A running pair, and what is needed to ask it and to see what it did."""

    running: Running
    framework: Framework
    observer: Observer
    reports: Path

    @property
    def server(self) -> Server:
        """The server that runs."""
        return self.running.server

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Under which paths the server is next to our middleware, and where it is not.

        A middleware further out that runs ours in a task of its own, as Starlette's do, would hide
        what the server's next request learns.
        """
        return ("/wrapped", "") if "wrapped" in self.framework.features else ("",)

    @contextlib.contextmanager
    def connect(self, address: str = "127.0.0.1") -> Iterator[Connection]:
        """Open a connection from an address of this machine."""
        with Connection(self.running.port, address, self._settle) as connection:
            yield connection

    def _settle(self, asked: Asked) -> None:
        if not self.server.early:
            self.seen(asked, "flushed" if "x-flush" in asked.headers else "outside")

    def ask(self, asked: Asked, address: str = "127.0.0.1") -> Response:
        """Send one request on a connection of its own."""
        with self.connect(address) as connection:
            return checked(connection.request(asked))

    def pipeline(self, *requests: Asked) -> list[Response]:
        """Send requests at once on one connection; return the answers to all of them."""
        answered = None if self.server.pipelining else 1
        with self.connect() as connection:
            return [checked(one) for one in connection.pipeline(*requests, answered=answered)]

    def seen(self, asked: Asked, point: str) -> Any:
        """Return what the app saw at a point of a request, perhaps after its response."""
        return self.observer.wait(asked.headers["x-id"], point)

    def reported(self, asked: Asked) -> list[str | None]:
        """Return the ids of the users that the request's reports name."""
        return [user.get("id") for user in self.reported_users(asked)]

    def reported_users(self, asked: Asked) -> list[dict[str, Any]]:
        """Return the users that the request's reports name, whole."""
        from usercontext.sentry import read_reports

        assert self.seen(asked, "flushed") is True
        reports = (json.dumps(report) for report in read_reports(self.reports))
        own = [json.loads(report) for report in reports if f'"{asked.headers["x-id"]}"' in report]
        return [report.get("user") or {} for report in own]


@dataclass(frozen=True)
class Scenario:
    """A scenario, and the features that a framework needs for it."""

    run: Callable[[Target], None]
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """What it is called in the tests' names and in a `Limit`."""
        return self.run.__name__

    def fits(self, framework: Framework) -> bool:
        """Return whether this framework can do it."""
        return self.needs <= framework.features

    def limit(self, framework: Framework, server: Server) -> str | None:
        """Return why it cannot be run on this pair, or None."""
        limits = [(limit, server.name) for limit in framework.limits]
        limits += [(limit, framework.name) for limit in server.limits]
        for limit, other in limits:
            names, others = limit.scenarios or {self.name}, limit.others or {other}
            if self.name in names and other in others:
                return limit.reason
        return None


SCENARIOS: dict[str, Scenario] = {}


def scenario(*needs: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Add a scenario for the frameworks that have these features."""

    def add(run: Callable[[Target], None]) -> Callable[[Target], None]:
        SCENARIOS[run.__name__] = Scenario(run, frozenset(needs))
        return run

    return add


# Requests.


def found(path: str, **options: Any) -> Asked:
    """Return a request whose user the resolver finds."""
    return _asked(path, "x-user", **options)


def put(path: str, **options: Any) -> Asked:
    """Return a request whose user the endpoint sets."""
    return _asked(path, "x-set", **options)


def both(path: str, **options: Any) -> list[Asked]:
    """Return a request of either kind."""
    return [found(path, **options), put(path, **options)]


def anonymous(path: str = "/whoami", body: bytes = b"", **headers: str) -> Asked:
    """Return a request of nobody."""
    return _of({"x-id": fresh("id"), **_named(headers)}, path, body, "GET")


def _asked(
    path: str, kind: str, *, body: bytes = b"", method: str = "GET", **headers: str
) -> Asked:
    return _of({"x-id": fresh("id"), kind: fresh(), **_named(headers)}, path, body, method)


def _of(headers: dict[str, str], path: str, body: bytes, method: str) -> Asked:
    belong(headers["x-id"], headers.values())
    return Asked(path, headers, body, "POST" if body else method)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {f"x-{name}": value for name, value in headers.items()}


def user_of(asked: Asked) -> str | None:
    """Return the user that a request is made for."""
    return asked.headers.get("x-set") or asked.headers.get("x-user")


def checked(response: Response) -> Response:
    """Return the response of an app that started where nobody was to be seen."""
    assert_seen(response.headers.get("x-outside", NOBODY), NOBODY)
    return response


def assert_nobody_next(connection: Connection) -> None:
    """The next request of this connection, an anonymous one, sees nobody."""
    answer = checked(connection.request(anonymous()))
    assert_seen(answer.json(), {"user": None})


def assert_clean_outside(at: Target, *requests: Asked) -> None:
    """Nothing outside our middleware saw the user of these requests at any time."""
    for asked in requests:
        assert_seen(at.seen(asked, "outside"), [NOBODY])


# Many requests at once.


def _interleaved(at: Target, path: str) -> None:
    size = 1 if at.server.processes > 1 else at.server.concurrency
    shared = {"group": fresh("group"), "size": str(size)}
    requests = [(found, put, anonymous)[number % 3](path, **shared) for number in range(size)]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(at.connect()) for _ in requests]
        for connection, asked in zip(connections, requests, strict=True):
            connection.send(asked)
        for connection, asked in zip(connections, requests, strict=True):
            answer = checked(connection.read()).json()
            assert_seen(answer["seen"], [user_of(asked)] * 4)
    assert_clean_outside(at, *requests)


@scenario("async")
def requests_interleave_at_awaits(at: Target) -> None:
    """Sixteen requests that wait for each other at awaits each see their own user."""
    _interleaved(at, "/interleave")


@scenario("threads")
def requests_interleave_in_threads(at: Target) -> None:
    """Requests that wait for each other in threads each see their own user."""
    _interleaved(at, "/interleave-sync")


@scenario("in_process")
def a_thousand_requests_at_once(at: Target) -> None:
    """Of a thousand requests at once none sees another's user."""
    users = [None if number % 3 == 2 else known(f"u{number}") for number in range(1000)]
    assert_seen(at.ask(anonymous("/thousand")).json(), {"users": users})


@scenario()
def many_requests_on_fifty_connections(at: Target) -> None:
    """Of up to a thousand requests on fifty connections, all busy, each sees its own user."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(at.connect()) for _ in range(50)]
        for turn in range(at.server.rounds):
            requests = [
                (found, put, anonymous)[(number + turn) % 3]("/whoami") for number in range(50)
            ]
            for connection, asked in zip(connections, requests, strict=True):
                connection.send(asked)
            for connection, asked in zip(connections, requests, strict=True):
                assert_seen(checked(connection.read()).json(), {"user": user_of(asked)})


# One request after the other.


@scenario()
def anonymous_behind_a_user_on_keep_alive(at: Target) -> None:
    """An anonymous request that follows a user's on its connection sees nobody."""
    for prefix in at.prefixes:
        with at.connect() as connection:
            for asked in (*both(f"{prefix}/whoami"), *both(f"{prefix}/whoami")):
                answer = checked(connection.request(asked)).json()
                assert_seen(answer, {"user": user_of(asked)})
                assert_nobody_next(connection)
                assert_clean_outside(at, asked)


def _behind_a_large_body(at: Target, path: str) -> None:
    for prefix in at.prefixes:
        with at.connect() as connection:
            for asked in both(prefix + path, body=LARGE):
                answer = checked(connection.request(asked)).json()
                assert_seen(answer, {"user": user_of(asked)})
                assert_nobody_next(connection)


@scenario()
def anonymous_behind_a_large_body(at: Target) -> None:
    """An anonymous request that follows a body of 200 kB on its connection sees nobody."""
    _behind_a_large_body(at, "/whoami")


@scenario()
def anonymous_behind_a_large_body_nobody_read(at: Target) -> None:
    """An anonymous request that follows a body of 200 kB that nobody read sees nobody."""
    _behind_a_large_body(at, "/whoami-sync")


def _pipelined(at: Target, *requests: Asked) -> None:
    for asked, answer in zip(requests, at.pipeline(*requests), strict=True):
        assert_seen(answer.json(), {"user": user_of(asked)})


@scenario()
def anonymous_pipelined_behind_a_user(at: Target) -> None:
    """Anonymous requests pipelined between users' requests see nobody."""
    for prefix in at.prefixes:
        users = *both(f"{prefix}/whoami"), *both(f"{prefix}/whoami")
        _pipelined(at, *(one for user in users for one in (user, anonymous())))


@scenario()
def anonymous_pipelined_behind_a_large_body(at: Target) -> None:
    """An anonymous request pipelined behind a body of 200 kB sees nobody."""
    for prefix in at.prefixes:
        _pipelined(at, put(f"{prefix}/whoami", body=LARGE), anonymous(), anonymous())


@scenario("streams")
def anonymous_pipelined_behind_a_stream(at: Target) -> None:
    """An anonymous request pipelined behind a stream sees nobody."""
    for prefix in at.prefixes:
        asked = put(f"{prefix}/stream")
        streamed, answer = at.pipeline(asked, anonymous())
        assert_seen(streamed.lines(), [user_of(asked)] * 4)
        assert_seen(answer.json(), {"user": None})


# Defects of other reporting clients, which `tests/test_defects.py` counts.


@scenario()
def a_cached_user_is_left_alone(at: Target) -> None:
    """Reports of one user's requests name each its own address, and the app's dict none (1)."""
    for address in ("127.0.0.2", "127.0.0.3"):
        asked = anonymous("/cached", flush="1")
        app_dict = {"id": "cached", "plan": {"name": "free"}}
        assert_seen(at.ask(asked, address).json(), app_dict)
        assert_seen(at.reported_users(asked), [{**app_dict, "ip_address": address}])


@scenario()
def a_user_who_cannot_be_read_changes_no_response(at: Target) -> None:
    """A user whose properties raise is nobody, in a response of 200 (3)."""
    asked = found("/broken-user", flush="1")
    answer = at.ask(asked)
    assert_seen((answer.status, answer.json()), (200, {"user": None}))
    assert_seen(at.reported_users(asked), [{"ip_address": "127.0.0.1"}])


@scenario("auser")
def async_django_views_have_their_user(at: Target) -> None:
    """An error after `await request.auser()` in an async view of Django names that user (6)."""
    for account in ("71", "72"):
        asked = anonymous("/bare/auser", auth=account, flush="1")
        assert at.ask(asked).status == 500
        assert_seen(at.reported(asked), [account])


@scenario()
def the_resolver_is_asked_once_and_only_when_needed(at: Target) -> None:
    """A request that reports nothing never asks, another one asks once (7)."""
    idle, curious = found("/idle"), found("/whoami")
    for asked in (idle, curious):
        at.ask(asked)
        assert_clean_outside(at, asked)
    assert len(at.observer.all(idle.headers["x-id"], "resolver")) == 0
    assert len(at.observer.all(curious.headers["x-id"], "resolver")) == 1


@scenario()
def a_tombstone_hides_the_found_user(at: Target) -> None:
    """`set_user(None)` means nobody, whomever the resolver would have found (11)."""
    asked = found("/message", set="-", flush="1")
    assert_seen(at.ask(asked).json(), {"user": None})
    assert_seen(at.reported_users(asked), [{"ip_address": "127.0.0.1"}])


# Threads and tasks.


@scenario("threads")
def threads_of_a_request(at: Target) -> None:
    """Threads see the user if they were given the context or the scope, and else nobody."""
    for asked in both("/threads-sync", late=fresh("late")):
        user = user_of(asked)
        assert_seen(
            at.ask(asked).json(),
            {
                "endpoint": user,
                "thread": None,
                "bound_thread": user,
                "copied": user,
                "submitted": None,
                "bound": user,
                "submitted_again": None,
                "set_in_a_thread": asked.headers["x-late"],
            },
        )


@scenario("async")
def threads_of_an_event_loop(at: Target) -> None:
    """`to_thread` carries the user, a plain executor does not, `bind` does."""
    for asked in both("/threads", late=fresh("late")):
        user = user_of(asked)
        assert_seen(
            at.ask(asked).json(),
            {
                "endpoint": user,
                "to_thread": user,
                "copied": user,
                "submitted": None,
                "bound": user,
                "submitted_again": None,
                "set_in_a_thread": asked.headers["x-late"],
            },
        )


@scenario("async")
def tasks_of_a_request(at: Target) -> None:
    """Child tasks see and set the request's user, and `use_user` lends one to a single task."""
    for asked in both("/tasks", late=fresh("late")):
        user = user_of(asked)
        assert_seen(
            at.ask(asked).json(),
            {
                "child": user,
                "borrowed": ["first", "second", user],
                "set_in_a_task": asked.headers["x-late"],
            },
        )


@scenario("async", "threads")
def sync_endpoints_in_the_threadpool(at: Target) -> None:
    """A sync endpoint sees and sets the user as an async one does."""
    with at.connect() as connection:
        for asked in (*both("/whoami-sync"), *both("/whoami-sync")):
            assert_seen(checked(connection.request(asked)).json(), {"user": user_of(asked)})
            assert_nobody_next(connection)


# Who is seen around the endpoint.


@scenario("middleware")
def middleware_sees_what_the_endpoint_set(at: Target) -> None:
    """A middleware or hook of the framework sees the user that the endpoint set."""
    for asked in both("/whoami"):
        assert_seen(at.ask(asked).headers["x-middleware"], user_of(asked))


@scenario("outer_middleware")
def middleware_further_out_finds_the_user_by_request(at: Target) -> None:
    """A middleware outside ours finds the user of the request that it holds."""
    asked = put("/whoami")
    assert_seen(at.ask(asked).headers["x-outer-middleware"], user_of(asked))


@scenario("teardown")
def teardown_sees_what_the_endpoint_set(at: Target) -> None:
    """Flask's teardown sees the user that the endpoint set."""
    for asked in both("/whoami"):
        at.ask(asked)
        assert_seen(at.seen(asked, "teardown"), user_of(asked))


@scenario("dependencies")
def dependencies_in_all_six_forms(at: Target) -> None:
    """FastAPI's dependencies see each other's user, and what the endpoint set afterwards."""
    asked = put("/dependencies", late=fresh("late"))
    answer = at.ask(asked).json()
    forms = (
        *("plain", "asynchronous", "plain yield", "asynchronous yield"),
        *("class", "callable", "endpoint"),
    )
    assert_seen(answer, dict.fromkeys(forms, user_of(asked)))
    for point in ("plain yield", "asynchronous yield"):
        assert_seen(at.seen(asked, point), asked.headers["x-late"])


# After the response.


@scenario("background")
def background_work_keeps_its_user(at: Target) -> None:
    """What runs when the response is sent still sees the request's user."""
    for asked in both("/background"):
        with at.connect() as connection:
            checked(connection.request(asked))
            assert_nobody_next(connection)
        assert_seen(at.seen(asked, "background-thread"), user_of(asked))


@scenario("background_tasks")
def background_tasks_keep_their_user(at: Target) -> None:
    """A background task of Starlette sees the request's user."""
    for asked in both("/background"):
        at.ask(asked)
        assert_seen(at.seen(asked, "background"), user_of(asked))
        assert_clean_outside(at, asked)


@scenario("async")
def detached_work_keeps_its_user(at: Target) -> None:
    """Tasks and timers that outlive the response see its user, and the next request does not."""
    for asked in both("/detach"):
        with at.connect() as connection:
            checked(connection.request(asked))
            assert_nobody_next(connection)
            let_go = anonymous("/release", release=asked.headers["x-id"])
            assert_seen(checked(connection.request(let_go)).json(), {"user": None})
            assert_seen(at.seen(asked, "task"), user_of(asked))
            assert_seen(at.seen(asked, "timer"), user_of(asked))
            assert_nobody_next(connection)


# Streams.


def _streams(at: Target, path: str) -> None:
    with at.connect() as connection:
        for asked in both(path):
            answer = checked(connection.request(asked))
            assert_seen(answer.lines(), [user_of(asked)] * 4)
            assert_seen(at.seen(asked, "closed"), user_of(asked))
            assert_clean_outside(at, asked)
            assert_nobody_next(connection)


@scenario("streams")
def streams_of_async_generators(at: Target) -> None:
    """An async generator sees its request's user to its end."""
    _streams(at, "/stream")


@scenario("sync_streams")
def streams_of_sync_generators(at: Target) -> None:
    """A generator sees its request's user to its end, and the server does not."""
    _streams(at, "/stream-sync")


@scenario("plain_streams")
def streams_without_a_framework_context(at: Target) -> None:
    """A generator that no framework keeps in a context sees its request's user."""
    _streams(at, "/stream-plain")


def _broken_stream(at: Target, path: str) -> None:
    for asked in both(path, flush="1"):
        with at.connect() as connection:
            connection.send(asked)
            # The response is not read: daphne never ends one that failed.
            assert_seen(at.reported(asked), [user_of(asked)])
            connection.close()
            assert_nobody_next(connection)
        assert_clean_outside(at, asked)


@scenario("streams")
def errors_in_the_middle_of_a_stream(at: Target) -> None:
    """An error in the middle of an async stream is reported once, with its user."""
    _broken_stream(at, "/stream-failing")


@scenario("sync_streams")
def errors_in_the_middle_of_a_sync_stream(at: Target) -> None:
    """An error in the middle of a sync stream is reported once, with its user."""
    _broken_stream(at, "/stream-sync-failing")


def _left_stream(at: Target, path: str) -> None:
    for asked in both(path):
        with at.connect() as connection:
            connection.send(asked)
            assert f"{user_of(asked)}\n".encode() in connection.read_some(20_000)
        with at.connect() as connection:
            assert_nobody_next(connection)
        assert_clean_outside(at, asked)
        if "async" in at.framework.features:
            # A generator that is dropped in a cycle ends where garbage is collected.
            at.ask(anonymous("/collect"))
        closed = at.seen(asked, "closed")
        assert_seen(closed, closed and user_of(asked))


@scenario("streams")
def disconnects_in_the_middle_of_a_stream(at: Target) -> None:
    """When the client leaves an async stream, nobody else gets its user."""
    _left_stream(at, "/stream-endless")


@scenario("sync_streams")
def disconnects_in_the_middle_of_a_sync_stream(at: Target) -> None:
    """When the client leaves a sync stream, nobody else gets its user."""
    _left_stream(at, "/stream-sync-endless")


@scenario()
def head_requests(at: Target) -> None:
    """A HEAD request leaves no user behind."""
    _heads(at, *both("/whoami", method="HEAD"))


@scenario("sync_streams")
def head_requests_of_streams(at: Target) -> None:
    """A HEAD request of a stream, which nobody reads, leaves no user behind."""
    _heads(at, *both("/stream-sync", method="HEAD"))


def _heads(at: Target, *requests: Asked) -> None:
    for asked in requests:
        with at.connect() as connection:
            assert checked(connection.request(asked)).body == b""
            # The next one goes elsewhere: daphne does send the body of a stream after all.
            connection.close()
            assert_nobody_next(connection)
        assert_clean_outside(at, asked)


@scenario("files")
def files(at: Target) -> None:
    """A response that is a file leaves no user behind."""
    with at.connect() as connection:
        answer = checked(connection.request(put("/file")))
        assert len(answer.body) == 9000
        assert_nobody_next(connection)


@scenario("raw")
def file_wrappers(at: Target) -> None:
    """The server's own file wrapper reaches it unwrapped, and leaves no user behind."""
    asked = put("/raw/file")
    with at.connect() as connection:
        answer = checked(connection.request(asked))
        assert len(answer.body) == 9000
        assert at.seen(asked, "file wrapper kept") is True
        assert_clean_outside(at, asked)
        assert_nobody_next(connection)


@scenario("raw")
def lists(at: Target) -> None:
    """A body that is a list keeps its length, and leaves no user behind."""
    asked = put("/raw/list")
    with at.connect() as connection:
        assert_seen(checked(connection.request(asked)).lines(), [user_of(asked)])
        assert_clean_outside(at, asked)
        assert_nobody_next(connection)


@scenario("raw")
def the_write_callable(at: Target) -> None:
    """What is sent with `write()` leaves no user behind."""
    asked = put("/raw/write")
    with at.connect() as connection:
        answer = checked(connection.request(asked))
        if at.server.write:
            assert_seen(answer.lines(), [user_of(asked)] * 3)
            assert_clean_outside(at, asked)
        else:
            assert answer.status == 500
        assert_nobody_next(connection)


@scenario("raw")
def errors_in_close(at: Target) -> None:
    """A body's `close()` sees the user, and its error is reported with them."""
    asked = put("/raw/broken-close", flush="1")
    with at.connect() as connection:
        connection.send(asked)
        with contextlib.suppress(ConnectionError, ConnectionLostError):
            connection.read()
        connection.close()
        assert_nobody_next(connection)
    assert_seen(at.seen(asked, "closed"), user_of(asked))
    assert_clean_outside(at, asked)
    assert_seen(at.reported(asked), [user_of(asked)])


# Errors.


@scenario()
def unhandled_errors(at: Target) -> None:
    """An unhandled error is reported once, with the user of its request."""
    requests = [*both("/boom", flush="1"), anonymous("/boom", flush="1")]
    for asked in requests:
        with at.connect() as connection:
            assert checked(connection.request(asked)).status == 500
            assert_nobody_next(connection)
    for asked in requests:
        assert_clean_outside(at, asked)
        assert_seen(at.reported(asked), [user_of(asked)])


@scenario("handler500")
def error_handlers_see_the_user(at: Target) -> None:
    """The handler of a 500 sees the user, wherever the framework runs it."""
    for asked in both("/boom"):
        answer = at.ask(asked).json()
        assert_seen(list(answer.values()), [user_of(asked)] * len(answer))


@scenario("handlers")
def handled_errors(at: Target) -> None:
    """A handler sees the user of its error, and what it reports names them, once."""
    for asked in both("/handled", flush="1"):
        answer = at.ask(asked)
        assert_seen((answer.status, answer.json()), (409, {"user": user_of(asked)}))
        assert_seen(at.reported(asked), [user_of(asked)])


@scenario()
def messages(at: Target) -> None:
    """A message that an endpoint reports names the user of its request, or nobody."""
    for asked in (*both("/message", flush="1"), anonymous("/message", flush="1")):
        at.ask(asked)
        assert_seen(at.reported(asked), [user_of(asked)])


@scenario("outer_reporter")
def outer_reporters_find_the_user_of_an_error(at: Target) -> None:
    """A reporter outside our middleware finds the user of an error that passed through it."""
    for asked in both("/boom"):
        at.ask(asked)
        assert_seen(at.seen(asked, "outer reporter"), user_of(asked))


@scenario("raw")
def outer_reporters_find_the_user_of_a_bare_error(at: Target) -> None:
    """An error that no framework caught is reported, and known to reporters further out."""
    for asked in both("/raw/boom", flush="1"):
        with at.connect() as connection:
            connection.send(asked)
            # The response is not read: uwsgi has none for such an error.
            assert_seen(at.seen(asked, "outer reporter"), user_of(asked))
            connection.close()
            assert_nobody_next(connection)
        assert_seen(at.reported(asked), [user_of(asked)])


# Requests inside requests, apps inside apps.


@scenario("in_process")
def requests_inside_a_request(at: Target) -> None:
    """A request made inside another has a user of its own and leaves the outer one's alone."""
    for asked in both("/sub-requests", inner=fresh("inner")):
        inner = asked.headers["x-inner"]
        assert_seen(
            at.ask(asked).json(),
            {
                "other": inner,
                "nobody": None,
                "setter": inner,
                "together": [inner, None],
                "outer": [user_of(asked)] * 2,
            },
        )


def _mounted(at: Target, kind: str) -> None:
    with at.connect() as connection:
        asked = found(f"/mounted/{kind}/")
        assert_seen(checked(connection.request(asked)).json(), {"user": user_of(asked)})
        assert_nobody_next(connection)
        asked = found(f"/mounted/{kind}-own/", inner=fresh("inner"))
        answer = checked(connection.request(asked)).json()
        assert_seen(answer, {"user": asked.headers["x-inner"]})
        assert_clean_outside(at, asked)
        assert_nobody_next(connection)


@scenario("mounted_asgi")
def mounted_asgi_apps(at: Target) -> None:
    """A mounted ASGI app sees the outer user, or its own resolver's."""
    _mounted(at, "asgi")


@scenario("mounted_wsgi")
def mounted_wsgi_apps(at: Target) -> None:
    """A mounted WSGI app sees the outer user, or its own resolver's."""
    _mounted(at, "wsgi")


def _variant(at: Target, prefix: str) -> None:
    requests = both(f"{prefix}/whoami")
    failing = put(f"{prefix}/boom", flush="1")
    with at.connect() as connection:
        for asked in requests:
            assert_seen(checked(connection.request(asked)).json(), {"user": user_of(asked)})
            assert_nobody_next(connection)
        assert checked(connection.request(failing)).status == 500
    assert_clean_outside(at, *requests, failing)
    assert_seen(at.reported(failing), [user_of(failing)])


@scenario("twice")
def wrapped_twice(at: Target) -> None:
    """Ours twice is as good as once, and reports an error once."""
    _variant(at, "/twice")


@scenario("wrapped")
def wrapped_around_the_app(at: Target) -> None:
    """Ours around the app is as good as added to it."""
    _variant(at, "/wrapped")


# What is not an HTTP request.


@scenario("websockets")
def websockets_change_their_user(at: Target) -> None:
    """A websocket keeps the user that it last set, and no other connection sees them."""
    import websockets.sync.client

    # gunicorn never answers the closing.
    connect = functools.partial(websockets.sync.client.connect, close_timeout=1)
    first, second, changed, identifier = fresh(), fresh(), fresh(), fresh("id")
    belong(identifier, (first, changed))
    address = f"ws://127.0.0.1:{at.running.port}/websocket"
    with (
        connect(address, additional_headers={"x-user": first, "x-id": identifier}) as one,
        connect(address, additional_headers={"x-user": second}) as two,
        connect(address) as three,
    ):
        sockets = (one, two, three)
        assert_seen([_said(socket, "who") for socket in sockets], [first, second, "None"])
        assert_seen(_said(one, f"set:{changed}"), changed)
        assert_seen([_said(socket, "who") for socket in sockets], [changed, second, "None"])
        assert_seen([_said(socket, "task") for socket in sockets], [changed, second, "None"])
    assert_seen(at.observer.wait(identifier, "closed"), changed)
    assert_seen(at.observer.wait(identifier, "outside"), [NOBODY])
    assert_seen(at.ask(anonymous()).json(), {"user": None})


def _said(socket: Any, text: str) -> str:
    socket.send(text)
    answer: str = socket.recv(10)
    return answer


@scenario("lifespan")
def lifespan_is_nobody(at: Target) -> None:
    """The lifespan has no user, can set none, and its tasks never get a request's."""
    with at.connect() as connection:
        asked = put("/lifespan")
        for _ in range(2):
            answer = checked(connection.request(asked)).json()
            # Without one there may be none, or the framework's own, in its first request.
            looks = ("startup", "reaper") if at.server.lifespan else answer.keys() - {"user"}
            assert_seen(answer, {**dict.fromkeys(looks), "user": user_of(asked)})


@scenario()
def forked_workers(at: Target) -> None:
    """What was set at import time is nobody's user, and every worker reports its own requests."""
    requests = [put("/boom", flush="1") for _ in range(4 * at.server.processes)]
    for asked in requests:
        assert_seen(at.ask(anonymous()).json(), {"user": None})
        at.ask(asked)
    for asked in requests:
        assert_seen(at.reported(asked), [user_of(asked)])
