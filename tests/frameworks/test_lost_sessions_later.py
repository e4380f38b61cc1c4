"""Accounts whose session is lost in a stream, a background task or a dependency's end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy.exc import IntegrityError

from tests.driver import asgi_call, scope_of, wsgi_request
from tests.frameworks.test_lost_sessions import (
    CLEANED,
    KINDS,
    Account,
    failing,
    named,
    queries,
    session,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sqlalchemy.orm import Session

    from usercontext.testing import RecordingClient

    # Fails, and cleans up as the test has it.
    Fail = Callable[[], None]
    Find = Callable[[], Account | None]

__all__ = ["session"]  # a fixture


def over_asgi(app: Any) -> None:
    """Serve one request; what fails in it may pass to the server."""
    scope = {**scope_of(), "path": "/", "raw_path": b"/"}
    with contextlib.suppress(Exception):  # some frameworks wrap it
        asyncio.run(asgi_call(app, scope))


def flask_stream(find: Find, fail: Fail, *, with_context: bool = False) -> None:
    """Flask-Login, and a generator that goes on where Flask has no context."""
    flask = pytest.importorskip("flask")
    flask_login = pytest.importorskip("flask_login")
    from tests.driver import environ_of
    from usercontext.frameworks.flask import UserContext, request_user

    app = flask.Flask("shop")
    app.secret_key = "change me"
    flask_login.LoginManager(app).user_loader(lambda _: find())

    @app.get("/")
    def index() -> Any:
        flask.g._login_user = find()

        def chunks() -> Iterator[str]:
            yield "1"
            fail()

        body = chunks()
        return flask.Response(flask.stream_with_context(body) if with_context else body)

    UserContext(app, resolver=request_user)
    with contextlib.suppress(KeyError, IntegrityError):
        wsgi_request(app, {**environ_of(), "PATH_INFO": "/"})


def flask_stream_with_context(find: Find, fail: Fail) -> None:
    """The same in a generator that has Flask's context."""
    flask_stream(find, fail, with_context=True)


def fastapi_task(find: Find, fail: Fail) -> None:
    """FastAPI's `request.state.user`, and a background task."""
    fastapi = pytest.importorskip("fastapi")
    from usercontext.frameworks.fastapi import UserContext, request_user

    async def index(request: Any, tasks: Any) -> str:
        request.state.user = find()
        tasks.add_task(fail)
        return "ok"

    index.__annotations__ = {"request": fastapi.Request, "tasks": fastapi.BackgroundTasks}
    app = fastapi.FastAPI()
    app.get("/")(index)
    UserContext(app, resolver=request_user)
    over_asgi(app)


def litestar_task(find: Find, fail: Fail) -> None:
    """Litestar's `scope["user"]`, and a background task."""
    litestar = pytest.importorskip("litestar")
    from litestar.background_tasks import BackgroundTask
    from litestar.response import Response

    from usercontext.frameworks.litestar import UserContext, request_user

    async def failing_task() -> None:
        fail()

    async def index(request: Any) -> Any:
        request.scope["user"] = find()
        return Response("ok", background=BackgroundTask(failing_task))

    index.__annotations__ = {"request": litestar.Request, "return": Response}
    plugin = UserContext(resolver=request_user)
    over_asgi(litestar.Litestar([litestar.get("/")(index)], plugins=[plugin]))


def falcon_stream(find: Find, fail: Fail) -> None:
    """Falcon's `req.context.user` over ASGI, and a stream."""
    asgi = pytest.importorskip("falcon.asgi")
    from usercontext.frameworks.falcon import UserContext, request_user

    class Resource:
        """One resource."""

        async def on_get(self, req: Any, resp: Any) -> None:
            """Answer with a stream."""
            req.context.user = find()
            resp.stream = self.chunks()

        async def chunks(self) -> AsyncIterator[bytes]:
            """Fail after the first chunk."""
            yield b"1"
            fail()

    app = asgi.App()
    app.add_route("/", Resource())
    served = UserContext(app, resolver=request_user)
    over_asgi(served)


def quart_stream(find: Find, fail: Fail) -> None:
    """Quart-Auth, and a generator that goes on where Quart has no context."""
    quart = pytest.importorskip("quart")
    quart_auth = pytest.importorskip("quart_auth")
    from usercontext.frameworks.quart import UserContext, request_user

    app = quart.Quart("shop")
    app.secret_key = "change me"
    quart_auth.QuartAuth(app)

    async def index() -> Any:
        account = find()
        assert account is not None
        quart_auth.login_user(quart_auth.AuthUser("7"))

        async def chunks() -> AsyncIterator[bytes]:
            yield b"1"
            fail()

        return chunks()

    app.get("/")(index)
    UserContext(app, resolver=request_user)
    over_asgi(app)


LATER = [
    flask_stream,
    flask_stream_with_context,
    fastapi_task,
    litestar_task,
    falcon_stream,
    quart_stream,
]


@KINDS
@CLEANED
@pytest.mark.parametrize("serve", LATER)
def test_an_error_after_the_endpoint_names_the_account(
    *,
    serve: Callable[[Find, Fail], None],
    kind: str,
    clean: Callable[[Session], None],
    session: Session,
    usercontext_recorder: RecordingClient,
) -> None:
    """The account has expired when the endpoint is through, and its session fails."""

    def find() -> Account | None:
        account = session.get(Account, 7)
        session.commit()
        return account

    serve(find, lambda: failing(session, kind, clean))
    assert named(usercontext_recorder) == ["7"]
    assert queries == []


# --- FastAPI with an async session in a dependency ----------------------------------------------


@KINDS
@pytest.mark.parametrize("told", ["state", "recorded", "scope"])
def test_a_dependency_that_closes_an_async_session(
    told: str, kind: str, usercontext_recorder: RecordingClient
) -> None:
    """Behind `yield` it rolls back, closes and raises on, and the report names the account."""
    pytest.importorskip("aiosqlite")
    fastapi = pytest.importorskip("fastapi")
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    from tests.frameworks.test_lost_sessions import Base
    from usercontext.frameworks.fastapi import UserContext, recorded, request_user

    engine = create_async_engine("sqlite+aiosqlite://")
    asked: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    async def opened() -> AsyncIterator[AsyncSession]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        session = AsyncSession(engine)
        session.add_all([Account(id=7, username="ada"), Account(id=8, username="bob")])
        await session.commit()
        try:
            yield session
        except (KeyError, IntegrityError):
            await session.rollback()
            await session.close()
            asked.clear()
            raise

    async def account_of(
        request: fastapi.Request, session: Annotated[AsyncSession, fastapi.Depends(opened)]
    ) -> Account | None:
        account = await session.get(Account, 7)
        if told == "state":
            request.state.user = account
        elif told == "scope":
            request.scope["user"] = account
        return account

    async def index(session: Any, account: Any) -> None:
        assert account.id == 7
        await session.commit()
        if kind == "KeyError":
            raise KeyError("order")
        session.add(Account(id=9, username="bob"))
        await session.flush()

    account_of.__annotations__["request"] = fastapi.Request
    account_of.__annotations__["session"] = Annotated[AsyncSession, fastapi.Depends(opened)]
    find = recorded(account_of) if told == "recorded" else account_of
    index.__annotations__ = {
        "session": Annotated[AsyncSession, fastapi.Depends(opened)],
        "account": Annotated[Any, fastapi.Depends(find)],
    }
    app = fastapi.FastAPI()
    app.get("/")(index)
    UserContext(app, resolver=None if told == "recorded" else request_user)
    over_asgi(app)
    assert named(usercontext_recorder) == ["7"]
    assert asked == []
