"""The resolver: called once per request at most, when it is needed, and never to harm it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    NOT_YET,
    RequestData,
    User,
    asgi,
    capture_message,
    diagnostics,
    get_user,
    isolation_scope,
    resolve_user,
    set_user,
    wsgi,
)
from usercontext.core.record import UNKNOWN, enter, leave

if TYPE_CHECKING:
    import logging

    from usercontext.testing import RecordingClient

ADA = User(id=1)
BOB = User(id=2)


class Counting:
    """A resolver that counts its calls, and answers with a user or an exception."""

    def __init__(self, answer: object = ADA) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self, request: object) -> object:
        self.calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class CountingAsync(Counting):
    """The same with `async def`, letting other tasks run in between."""

    async def __call__(self, request: object) -> object:
        await asyncio.sleep(0)
        return super().__call__(request)


def messages(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged on our logger."""
    return [record for record in caplog.records if record.name == "usercontext"]


# --- at most once -------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [ADA, None, LookupError()], ids=["user", "nobody", "failure"])
def test_the_resolver_is_asked_once(answer: object) -> None:
    """Whatever the resolver answers, a request asks it once."""
    resolver = Counting(answer)
    with isolation_scope(resolver=resolver):
        first, second = get_user(), get_user()
    assert first == second == (answer if isinstance(answer, User) else None)
    assert resolver.calls == 1


def test_a_request_that_asks_nothing_resolves_nothing() -> None:
    """A lazy resolver is not called by a request that nobody reports."""
    sync, awaited = Counting(), CountingAsync()
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(lambda: None), resolver=sync))
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(lambda: None), resolver=awaited))
    wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(lambda: None), resolver=sync))
    assert (sync.calls, awaited.calls) == (0, 0)


def test_racing_threads_share_one_call() -> None:
    """Eight threads of one request that ask at once make one call and get its answer."""
    gate = threading.Barrier(8)
    release = threading.Event()
    calls: list[object] = []

    def resolver(_request: object) -> User:
        calls.append(_request)
        release.wait(10)
        return ADA

    def ask(record: Any) -> User | None:
        token = enter(record)
        try:
            gate.wait(10)
            if not calls:
                release.set()
            return get_user()
        finally:
            release.set()
            leave(token)

    seen: list[User | None] = []

    def handler(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with ThreadPoolExecutor(8) as pool:
            seen.extend(pool.map(ask, [environ["usercontext.scope"]] * 8))
        start_response("200 OK", [])
        return []

    wsgi_request(wsgi.UserContextMiddleware(handler, resolver=resolver, resolver_timeout=10))
    assert seen == [ADA] * 8
    assert len(calls) == 1


def test_a_racing_thread_waits_no_longer_than_the_timeout() -> None:
    """While another thread's call hangs, a thread goes on without the user."""
    started, release = threading.Event(), threading.Event()

    def resolver(_request: object) -> User:
        started.set()
        release.wait(10)
        return ADA

    seen: list[User | None] = []

    def handler(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        def ask() -> None:
            token = enter(environ["usercontext.scope"])
            get_user()
            leave(token)

        other = threading.Thread(target=ask)
        other.start()
        started.wait(10)
        seen.append(get_user())
        release.set()
        other.join()
        seen.append(get_user())
        start_response("200 OK", [])
        return []

    wsgi_request(wsgi.UserContextMiddleware(handler, resolver=resolver, resolver_timeout=0.01))
    assert seen == [None, ADA]


def test_a_thread_that_runs_a_loop_never_waits() -> None:
    """On an event loop a call under way in another thread means nobody, at once."""
    started, release = threading.Event(), threading.Event()

    def resolver(_request: object) -> User:
        started.set()
        release.wait(10)
        return ADA

    seen: list[User | None] = []

    async def handler() -> None:
        other = asyncio.create_task(asyncio.to_thread(get_user))
        await asyncio.to_thread(started.wait, 10)
        seen.append(get_user())
        release.set()
        seen.append(await other)

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), resolver=resolver, resolver_timeout=60
    )
    asgi_request(app)
    assert seen == [None, ADA]


def test_tasks_that_await_together_get_one_answer() -> None:
    """Twenty tasks that await resolve_user() share one call of an async resolver."""
    resolver = CountingAsync()
    seen: list[User | None] = []

    async def handler() -> None:
        seen.extend(await asyncio.gather(*(resolve_user() for _ in range(20))))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=resolver))
    assert seen == [ADA] * 20
    assert resolver.calls == 1


def test_a_cancelled_call_is_taken_over_by_the_next_that_waits() -> None:
    """Cancelling the task that runs the resolver cancels nothing for those that wait."""
    gate = asyncio.Event()
    calls = 0
    seen: list[User | None] = []

    async def resolver(_request: object) -> User:
        nonlocal calls
        calls += 1
        await gate.wait()
        return ADA

    async def handler() -> None:
        first = asyncio.create_task(resolve_user())
        await asyncio.sleep(0)
        second = asyncio.create_task(resolve_user())
        await asyncio.sleep(0)
        first.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        seen.append(await second)

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=resolver))
    assert seen == [ADA]
    assert calls == 2


# --- re-entrance --------------------------------------------------------------------------------


def test_inside_the_resolver_there_is_no_user() -> None:
    """A resolver that asks for the user, by a log line or a report, sees nobody."""
    seen: list[User | None] = []

    def resolver(_request: object) -> User:
        seen.append(get_user())
        return ADA

    with isolation_scope(resolver=resolver):
        assert get_user() == ADA
    assert seen == [None]


def test_inside_an_async_resolver_there_is_no_user() -> None:
    """An async resolver that awaits resolve_user() itself is not awaited for ever."""
    seen: list[User | None] = []

    async def resolver(_request: object) -> User:
        seen.extend([await resolve_user(), await asyncio.create_task(resolve_user())])
        return ADA

    async def handler() -> None:
        seen.append(await resolve_user())

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=resolver))
    assert seen == [None, None, ADA]


@pytest.mark.parametrize("moment", ["before", "inside", "after"])
def test_an_explicit_user_wins_whenever_it_is_set(moment: str) -> None:
    """What the app says is kept, whole, before, during and after the resolver's answer."""

    def resolver(_request: object) -> dict[str, Any]:
        if moment == "inside":
            set_user(BOB)
        return {"id": 1, "email": "ada@shop.example"}

    with isolation_scope(resolver=resolver):
        if moment == "before":
            set_user(BOB)
        get_user()
        if moment == "after":
            set_user(BOB)
        assert get_user() == BOB


# --- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Counting, CountingAsync])
def test_a_failing_resolver_changes_no_response(
    kind: type[Counting], caplog: pytest.LogCaptureFixture
) -> None:
    """The response is what it would be without us; the log has one traceback for many failures."""
    resolver = kind(LookupError("no such table"))

    async def handler() -> None:
        await resolve_user()

    app = asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=resolver)
    for _ in range(3):
        assert asgi_request(app)[0]["status"] == 200
    (record,) = messages(caplog)
    assert record.exc_info is not None
    assert diagnostics.failures() == {f"resolver tests.core.test_resolution.{kind.__name__}": 3}


@pytest.mark.parametrize("nonsense", ["ada", 7, b"ada", ["ada"], 1.5, {"id": [1]}, {"plan": 1}])
def test_nonsense_from_a_resolver_is_nobody(
    nonsense: object, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that is not a user counts as nobody and is logged once, without its value."""
    for _ in range(2):
        with isolation_scope(resolver=lambda _: nonsense):
            assert get_user() is None
    (record,) = messages(caplog)
    assert "ada" not in record.getMessage()


def test_an_awaitable_from_a_plain_function_names_the_fix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A `def` that returns a coroutine is told to be `async def`, and nothing is left unawaited."""

    async def find(_request: object) -> User:
        return ADA

    with isolation_scope(resolver=lambda request: find(request)):  # noqa: PLW0108
        assert get_user() is None
    (record,) = messages(caplog)
    assert "async def" in record.getMessage()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_is_no_exception_passes_through_a_resolver(stop: type[BaseException]) -> None:
    """Only Exception is caught; the question stays open and is asked again."""
    resolver = Counting(stop())
    with isolation_scope(resolver=resolver):
        with pytest.raises(stop):
            get_user()
        resolver.answer = ADA
        assert get_user() == ADA


def test_a_partial_and_a_callable_object_may_be_async() -> None:
    """Async def is seen through functools.partial and __call__."""

    async def find(_shop: str, _request: object) -> User:
        return ADA

    seen: list[User | None] = []

    async def handler() -> None:
        seen.append(await resolve_user())

    for resolver in (partial(find, "shop"), CountingAsync()):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=resolver))
    assert seen == [ADA, ADA]


# --- lazy, eager, threads -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Counting, CountingAsync])
def test_an_eager_resolver_runs_before_the_app(kind: type[Counting]) -> None:
    """With resolve="eager" even a peek knows the user."""
    seen: list[User | None] = []
    app = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user(resolve=False))),
        resolver=kind(),
        resolve="eager",
    )
    asgi_request(app)
    assert seen == [ADA]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("first", [None, LookupError()], ids=["nobody", "failure"])
def test_nobody_before_the_app_is_no_final_answer(first: object, interface: str) -> None:
    """A None or failure met before the app ran is not kept: a middleware may still authenticate."""
    resolver = Counting(first)
    seen: list[User | None] = []

    def handler() -> None:
        resolver.answer = ADA
        seen.append(get_user())

    if interface == "asgi":
        app = asgi.UserContextMiddleware(
            plain_asgi_app(handler), resolver=resolver, resolve="eager"
        )
        asgi_request(app)
    else:
        wsgi_request(
            wsgi.UserContextMiddleware(plain_wsgi_app(handler), resolver=resolver, resolve="eager")
        )
    assert seen == [ADA]


def test_an_eager_resolver_that_hangs_does_not_block_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before the app, an async resolver has resolver_timeout, and the log says so once."""

    async def resolver(_request: object) -> None:
        await asyncio.Event().wait()

    app = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: None), resolver=resolver, resolve="eager", resolver_timeout=0.01
    )
    assert asgi_request(app)[0]["status"] == 200
    (record,) = messages(caplog)
    assert "resolver_timeout=0.01" in record.getMessage()


def test_a_resolver_thread_keeps_the_loop_free() -> None:
    """resolver_thread=True runs a sync resolver in a worker thread."""
    threads: list[int] = []

    def resolver(_request: object) -> User:
        threads.append(threading.get_ident())
        return ADA

    seen: list[User | None] = []

    async def handler() -> None:
        seen.extend([get_user(), await resolve_user()])

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), resolver=resolver, resolver_thread=True
    )
    asgi_request(app)
    assert seen == [None, ADA]
    assert threads != [threading.get_ident()]


def test_a_resolver_that_hangs_in_a_thread_does_not_hold_up_an_error() -> None:
    """An error is re-raised within resolver_timeout, though the resolver never answers."""
    release = threading.Event()

    def resolver(_request: object) -> User:
        release.wait(10)
        return ADA

    def fail() -> None:
        raise LookupError

    app = asgi.UserContextMiddleware(
        plain_asgi_app(fail), resolver=resolver, resolver_thread=True, resolver_timeout=0.01
    )

    async def run() -> User | None:
        with pytest.raises(LookupError) as caught:
            await asgi_call(app, scope_of())
        release.set()
        return get_user(error=caught.value)

    assert asyncio.run(run()) is None


def test_an_error_that_passes_is_resolved_before_the_scope_goes() -> None:
    """When an exception passes, an async resolver is awaited, so that reporters outside know."""

    def fail() -> None:
        raise LookupError

    app = asgi.UserContextMiddleware(
        plain_asgi_app(fail),
        resolver=CountingAsync(),
        request_data=RequestData(include_ip=True),
    )
    with pytest.raises(LookupError) as caught:
        asgi_request(app)
    assert get_user(error=caught.value) == User(id=1, ip_address="203.0.113.9")


# --- async resolvers over WSGI ------------------------------------------------------------------


def test_an_async_resolver_over_wsgi_runs_on_a_background_loop() -> None:
    """A report over WSGI gets its user from an async resolver, at once."""
    seen: list[User | None] = []
    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(lambda: seen.append(get_user())), resolver=CountingAsync()
    )
    wsgi_request(app)
    assert seen == [ADA]


def test_an_async_resolver_over_wsgi_has_a_time_limit() -> None:
    """One that hangs is cancelled after resolver_timeout, and the request goes on."""
    cancelled = threading.Event()

    async def resolver(_request: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    seen: list[User | None] = []
    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(lambda: seen.append(get_user())), resolver=resolver, resolver_timeout=0.01
    )
    wsgi_request(app)
    assert seen == [None]
    assert cancelled.wait(10)


# --- the request --------------------------------------------------------------------------------


def test_the_request_is_starlettes_over_asgi() -> None:
    """A resolver over ASGI reads Starlette's HTTPConnection."""
    requests = pytest.importorskip("starlette.requests")
    seen: list[Any] = []
    app = asgi.UserContextMiddleware(plain_asgi_app(get_user), resolver=seen.append)
    asgi_request(app, scope_of(x_user="ada"))
    (request,) = seen
    assert type(request) is requests.HTTPConnection
    assert request.headers["x-user"] == "ada"


def test_the_request_is_werkzeugs_over_wsgi_and_leaves_the_body_alone() -> None:
    """A resolver over WSGI reads Werkzeug's Request, which is shallow."""
    wrappers = pytest.importorskip("werkzeug.wrappers")
    seen: list[Any] = []
    app = wsgi.UserContextMiddleware(plain_wsgi_app(get_user), resolver=seen.append)
    environ = environ_of(x_user="ada")
    wsgi_request(app, environ)
    (request,) = seen
    assert isinstance(request, wrappers.Request)
    assert request.headers["x-user"] == "ada"
    assert request.shallow
    assert "werkzeug.request" not in environ


class WithAsyncForm:
    """A resolver that a task may await, as Django's ready one: in sync code it knows nobody."""

    def __call__(self, request: object) -> object:
        return UNKNOWN

    async def async_resolver(self, request: object) -> object:
        await asyncio.sleep(0)
        return ADA


def test_a_task_awaits_the_async_form_of_a_resolver() -> None:
    """`await resolve_user()` gets an answer where plain code leaves the question open."""
    seen: list[object] = []

    async def handler() -> None:
        seen.append(get_user())
        seen.append(await resolve_user())

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=WithAsyncForm()))
    assert seen == [None, ADA]


def test_a_report_waits_for_the_async_form(usercontext_recorder: RecordingClient) -> None:
    """What was reported while the question was open is completed at the request's end."""
    app = plain_asgi_app(lambda: capture_message("hello"))
    asgi_request(asgi.UserContextMiddleware(app, resolver=WithAsyncForm()))
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "1"}]


def test_a_resolver_that_hangs_takes_no_thread_of_the_app() -> None:
    """However many requests wait for it, the loop's own worker threads stay the app's."""
    answered = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("paid")

    served = asgi.UserContextMiddleware(
        app,
        resolver=lambda _: answered.wait(20),
        resolver_thread=True,
        resolver_timeout=0.05,
    )

    async def main() -> str:
        await asyncio.gather(*[served(scope_of(), None, None) for _ in range(40)])
        return await asyncio.wait_for(asyncio.to_thread(lambda: "ran"), 5)

    try:
        assert asyncio.run(main()) == "ran"
    finally:
        answered.set()


def test_resolvers_in_threads_are_few() -> None:
    """Calls that block at once share eight threads, and all are answered."""
    names = set()

    def resolver(request: Any) -> object:
        names.add(threading.current_thread())
        return {"id": request.headers["x-user"]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = await resolve_user()
        seen.append(user and user.id)

    seen: list[str | None] = []
    served = asgi.UserContextMiddleware(app, resolver=resolver, resolver_thread=True)

    async def main() -> None:
        scopes = [scope_of(x_user=str(n)) for n in range(50)]
        await asyncio.gather(*[served(scope, None, None) for scope in scopes])

    asyncio.run(main())

    assert sorted(map(str, seen)) == sorted(map(str, range(50)))
    assert 1 <= len(names) <= 8


def test_resolve_user_waits_no_longer_than_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    """A resolver that does not answer means nobody, also for who awaits it."""
    seen = []

    async def resolver(request: object) -> object:
        await asyncio.Event().wait()
        return ADA

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await resolve_user())

    asgi_request(asgi.UserContextMiddleware(app, resolver=resolver, resolver_timeout=0.01))

    assert seen == [None]
    assert "gave no answer within resolver_timeout=0.01 s" in caplog.text


def test_a_cancelled_request_still_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """A report that waits for an async resolver is completed after the request was cancelled."""

    async def resolver(request: Any) -> object:
        await asyncio.sleep(0)
        return {"id": request.headers["x-user"]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("paid")
        await asyncio.Event().wait()

    served = asgi.UserContextMiddleware(app, resolver=resolver)

    async def main() -> None:
        task = asyncio.create_task(served(scope_of(x_user="7"), None, None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others)

    asyncio.run(main())

    assert [event["user"]["id"] for event in usercontext_recorder.events] == ["7"]


def test_a_cancelled_request_waits_for_no_resolver_without_end(
    usercontext_recorder: RecordingClient,
) -> None:
    """A resolver that does not answer a cancelled request leaves its report without a user."""

    async def resolver(request: Any) -> object:
        await asyncio.Event().wait()
        return ADA

    async def app(scope: Any, receive: Any, send: Any) -> None:
        capture_message("paid")
        await asyncio.Event().wait()

    served = asgi.UserContextMiddleware(app, resolver=resolver, resolver_timeout=0.01)

    async def main() -> None:
        task = asyncio.create_task(served(scope_of(), None, None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    asyncio.run(main())

    assert ["user" in event for event in usercontext_recorder.events] == [False]


FORKED = """
import os, sys, threading, time
from contextvars import copy_context
from usercontext import get_user, wsgi
asked, parent = threading.Event(), os.getpid()
def resolver(request):
    asked.set()
    if os.getpid() == parent:
        threading.Event().wait(60)
    return {"id": 7}
def app(environ, start_response):
    threading.Thread(target=copy_context().run, args=(get_user,), daemon=True).start()
    asked.wait()
    child = os.fork()
    if not child:
        begin = time.monotonic()
        user = get_user()
        os._exit(not (user and user.id == "7" and time.monotonic() - begin < 20))
    seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return []
seen = []
wsgi.UserContextMiddleware(app, resolver=resolver, resolver_timeout=30)({}, None)
os._exit(seen != [0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """A resolver that another thread was running is asked again by the child, at once."""
    pytest.importorskip("werkzeug")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", FORKED], check=True, env=environment)


def test_a_resolver_that_answers_late_does_not_undo_set_user() -> None:
    """A user set while the resolver runs stays, whatever it then answers."""
    seen = []

    def resolver(request: object) -> object:
        set_user(BOB)
        return ADA

    def handler() -> None:
        seen.extend([get_user(), get_user()])

    wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), resolver=resolver))

    assert seen == [BOB, BOB]


def test_not_yet_does_not_undo_set_user() -> None:
    """Nor does a resolver that cannot know yet."""
    seen = []

    def resolver(request: object) -> object:
        set_user(BOB)
        return NOT_YET

    def handler() -> None:
        seen.extend([get_user(), get_user()])

    wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), resolver=resolver))

    assert seen == [BOB, BOB]
