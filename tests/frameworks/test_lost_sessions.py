"""Accounts of an ORM are named where their session has failed, is rolled back or closed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")

from sqlalchemy import String, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.frameworks import test_following as following
from usercontext.frameworks.starlette import UserContext, request_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from usercontext.testing import RecordingClient

engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
queries: list[str] = []


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """An account, of which nothing but the id is known once it has expired."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(40), unique=True)
    is_authenticated = True


@event.listens_for(engine, "before_cursor_execute")
def _count(*arguments: Any) -> None:
    queries.append(arguments[2])


@pytest.fixture(autouse=True)
def session() -> Iterator[Session]:
    """Open a session in which ada's account is there, and somebody else's name is taken."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Account(id=7, username="ada"), Account(id=8, username="bob")])
        session.commit()
        yield session
        session.rollback()
    Base.metadata.drop_all(engine)


def fail(session: Session, kind: str) -> None:
    """Fail as a view does that is wrong itself, or whose database refuses what it writes."""
    if kind == "KeyError":
        raise KeyError("order")
    session.add(Account(id=9, username="bob"))
    session.flush()


def leave_open(_session: Session) -> None:
    """Do nothing about it."""


def clean_up(session: Session) -> None:
    """Roll back, and close, as a middleware or a dependency does."""
    session.rollback()
    session.close()


def failing(session: Session, kind: str, clean: Callable[[Session], None]) -> None:
    """Fail, clean up, and raise on; from then on queries count."""
    try:
        fail(session, kind)
    except (KeyError, IntegrityError):
        clean(session)
        queries.clear()
        raise


KINDS = pytest.mark.parametrize("kind", ["KeyError", "IntegrityError"])
CLEANED = pytest.mark.parametrize("clean", [leave_open, clean_up])

# Whom a report names: those hold the account itself, and the last three its id alone.
FRAMEWORKS = {
    "aiohttp": "7",
    "bottle": "7",
    "falcon": "7",
    "falcon_asgi": "7",
    "fastapi": "7",
    "litestar": "7",
    "pyramid": "7",
    "sanic": "7",
    "starlette": "7",
    "tornado": "7",
    "blacksheep": "ada",
    "connexion": "ada",
    "quart": "ada",
}


def named(recorder: RecordingClient) -> list[str]:
    """Return the ids that the reports of errors name."""
    return [event["user"]["id"] for event in recorder.events]


@KINDS
@CLEANED
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_error_of_an_endpoint_names_the_account(
    *,
    framework: str,
    kind: str,
    clean: Callable[[Session], None],
    session: Session,
    usercontext_recorder: RecordingClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The account has expired by a commit, and its session may not be asked any more."""

    def play(become: following.Become) -> None:
        become("ada")
        session.commit()
        failing(session, kind, clean)

    monkeypatch.setattr(following, "account_of", lambda _: session.get(Account, 7))
    serve = getattr(following, f"serve_{framework}")
    with contextlib.suppress(IntegrityError):  # what a framework raises on to its server
        serve(play)
    assert named(usercontext_recorder) == [FRAMEWORKS[framework]]
    assert queries == []


@KINDS
@CLEANED
def test_an_error_of_flask_login_names_the_account(
    kind: str,
    clean: Callable[[Session], None],
    session: Session,
    usercontext_recorder: RecordingClient,
) -> None:
    """The same for a `current_user` that Flask-Login has loaded."""
    flask = pytest.importorskip("flask")
    flask_login = pytest.importorskip("flask_login")
    from usercontext.frameworks.flask import UserContext, request_user

    class Login(flask_login.LoginManager):  # type: ignore[misc, name-defined]
        """Loads accounts of the session."""

    app = flask.Flask("shop")
    app.secret_key = "change me"
    Login(app).user_loader(lambda key: session.get(Account, int(key)))

    @app.get("/")
    def index() -> None:
        flask.g._login_user = session.get(Account, 7)
        session.commit()
        failing(session, kind, clean)

    UserContext(app, resolver=request_user)
    app.test_client().get("/")
    assert named(usercontext_recorder) == ["7"]
    assert queries == []


@KINDS
@CLEANED
@pytest.mark.parametrize("where", ["background", "stream"])
def test_an_error_after_the_endpoint_names_the_account(
    where: str,
    kind: str,
    clean: Callable[[Session], None],
    session: Session,
    usercontext_recorder: RecordingClient,
) -> None:
    """In a background task, and in the middle of a stream."""

    async def chunks() -> AsyncIterator[str]:
        yield "1"
        failing(session, kind, clean)

    async def task() -> None:
        failing(session, kind, clean)

    async def index(request: Any) -> Any:
        request.scope["user"] = session.get(Account, 7)
        session.commit()
        if where == "stream":
            return StreamingResponse(chunks())
        return PlainTextResponse("ok", background=BackgroundTask(task))

    app = Starlette(routes=[Route("/", index)])
    UserContext(app, resolver=request_user)
    with contextlib.suppress(IntegrityError):
        following.over_asgi(app)
    assert named(usercontext_recorder) == ["7"]
    assert queries == []
