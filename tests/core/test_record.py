"""The record: found where it should be, and nowhere else."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest

from tests.driver import environ_of, plain_wsgi_app, scope_of, wsgi_request
from usercontext import User, asgi, get_user, resolve_user, set_user, wsgi
from usercontext.core.passage import attach, of_error
from usercontext.core.record import KEY, RequestRecord
from usercontext.core.settings import default

ADA = User(id=1)


def test_a_copied_environ_is_the_same_request() -> None:
    """An app that copies its environ deeply still finds its user."""
    seen: list[User | None] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        set_user(ADA)
        record = environ[KEY]
        assert copy.deepcopy(record) is record
        assert copy.copy(record) is record
        seen.append(get_user(request=dict(environ)))
        return []

    wsgi_request(wsgi.UserContextMiddleware(app))
    assert seen == [ADA]


def test_what_stands_under_the_key_shows_no_user() -> None:
    """The repr of a scope or environ, as a debug page prints it, holds nothing of the user."""
    environ = environ_of()
    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(lambda: set_user({"id": "secret-id", "email": "ada@shop.example"}))
    )
    wsgi_request(app, environ)
    assert "secret-id" not in repr(environ[KEY])
    assert "ada@" not in repr(environ[KEY])


def test_an_exception_that_two_requests_raised_carries_nobody() -> None:
    """A third request that raises it does not bring a name back."""
    error = LookupError()
    records = [RequestRecord.of(None, default()) for _ in range(3)]
    for record in records:
        attach(error, record)
    assert of_error(error) == (True, None)


def test_an_exception_keeps_the_record_it_carries() -> None:
    """The same request's record may be left on an exception any number of times."""
    error = LookupError()
    record = RequestRecord.of(None, default())
    attach(error, record)
    attach(error, record)
    assert of_error(error) == (True, record)


INHERITED = """
import asyncio, sys, threading
from contextvars import copy_context
from concurrent.futures import ThreadPoolExecutor
from usercontext import User, bind, get_user, set_user, isolation_scope
from usercontext.wsgi import UserContextMiddleware
assert sys.flags.thread_inherit_context
pool = ThreadPoolExecutor(1)
async def later():
    return get_user()
def first(environ, start_response):
    set_user({"id": 1})
    pool.submit(int).result()   # the pool's worker starts here, in this request's context
    assert pool.submit(bind(get_user)).result() == get_user() is not None
    seen.append(pool.submit(get_user).result())
    return []
def second(environ, start_response):
    seen.append(pool.submit(get_user).result())
    return []
seen = []
UserContextMiddleware(first)({}, None)
UserContextMiddleware(second)({}, None)
seen.append(pool.submit(get_user).result())
seen.append(pool.submit(asyncio.run, later()).result())
seen.append(pool.submit(lambda: copy_context().run(get_user)).result())
with isolation_scope(user={"id": 2}):
    seen.append(get_user() is not None)
assert seen == [None, None, None, None, None, True], seen
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="thread_inherit_context is of Python 3.14")
def test_a_pool_thread_that_inherited_a_request_shows_nobody() -> None:
    """A worker started in one request's context does not show its user to everybody for good."""
    subprocess.run([sys.executable, "-X", "thread_inherit_context=1", "-c", INHERITED], check=True)


def test_the_user_is_isolated_and_awaited_on_trio_too() -> None:
    """On another event loop than asyncio's, tasks share one answer, within its time limit."""
    trio = pytest.importorskip("trio")
    seen: list[Any] = []
    calls: list[object] = []

    async def resolver(request: object) -> User:
        calls.append(request)
        await trio.sleep(0)
        return ADA

    async def ask() -> None:
        seen.append(await resolve_user())

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)

    async def hang(_request: object) -> None:
        await trio.Event().wait()

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    async def run() -> None:
        await asgi.UserContextMiddleware(handler, resolver=resolver)(scope_of(), None, None)  # type: ignore[arg-type]
        with pytest.raises(LookupError) as caught:
            await asgi.UserContextMiddleware(fail, resolver=hang, resolver_timeout=0.01)(
                scope_of(),
                None,  # type: ignore[arg-type]
                None,  # type: ignore[arg-type]
            )
        seen.append(get_user(error=caught.value))

    trio.run(run)
    assert seen == [ADA, ADA, ADA, None]
    assert len(calls) == 1
