"""FastAPI: the user as a dependency, and dependencies that say who the user is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer, SecurityScopes
from fastapi.testclient import TestClient

from usercontext import User, capture_message, get_user, resolve_user, set_user
from usercontext.frameworks.fastapi import (
    CurrentUser,
    RequiredUser,
    RequireUser,
    UserContext,
    recorded,
    request_user,
)
from usercontext.testing import RecordingClient

ADA = {"authorization": "Bearer ada"}


@dataclass
class Account:
    """A model with a field that must never leave."""

    id: str
    email: str
    password_hash: str = "secret"


def account_of(request: Request) -> Account | None:
    """Find the account that a token names."""
    name = request.headers.get("authorization", "").removeprefix("Bearer ")
    return Account(name, f"{name}@shop.example") if name else None


def seen() -> str | None:
    """Say who is seen."""
    user = get_user()
    return None if user is None else user.id


def client_of(app: FastAPI) -> TestClient:
    """Return a client that gets the answer to an error."""
    return TestClient(app, raise_server_exceptions=False)


def add_routes(app: FastAPI) -> FastAPI:
    """Add the routes of an app, some of which take the user."""

    @app.get("/me")
    def me(user: CurrentUser) -> Any:
        return user and user.id

    @app.get("/must")
    async def must(user: RequiredUser) -> Any:
        return user.id

    @app.get("/boom")
    def boom() -> Any:
        raise LookupError("no such thing")

    @app.exception_handler(500)
    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(seen(), 500)

    return app


# --- the user as a dependency ----------------------------------------------------------------


def test_an_override_reaches_every_dependency() -> None:
    """What FastAPI is given in a test in place of `resolve_user` is the user of both types."""
    app = add_routes(FastAPI())
    UserContext(app)
    app.dependency_overrides[resolve_user] = lambda: User(id="eve")
    client = TestClient(app)
    assert [client.get(path).json() for path in ("/me", "/must")] == ["eve", "eve"]


def test_an_override_of_what_requires_a_user() -> None:
    """It is found by a like one, and reaches what requires a user alone."""
    app = add_routes(FastAPI())
    UserContext(app)
    app.dependency_overrides[RequireUser()] = lambda: User(id="eve")
    client = TestClient(app)
    assert [client.get(path).json() for path in ("/me", "/must")] == [None, "eve"]
    assert RequireUser() != RequireUser("Basic")


def test_the_current_user_is_a_dependency() -> None:
    """An endpoint in a thread gets the user, or None."""
    app = add_routes(FastAPI())
    UserContext(app, resolver=account_of)
    client = client_of(app)
    assert [client.get("/me", headers=ADA).json(), client.get("/me").json()] == ["ada", None]


def test_an_async_resolver_is_awaited() -> None:
    """Both dependencies wait for it."""

    async def resolver(connection: Any) -> Any:
        await asyncio.sleep(0)
        return account_of(connection)

    app = add_routes(FastAPI())
    UserContext(app, resolver=resolver)
    client = client_of(app)
    assert client.get("/me", headers=ADA).json() == "ada"
    assert client.get("/must", headers=ADA).json() == "ada"


def test_the_current_user_is_asked_anew_at_each_place() -> None:
    """What a dependency sets is what the next one gets, although FastAPI keeps results."""
    app = FastAPI()
    UserContext(app, resolver=account_of)

    def become(before: CurrentUser) -> None:
        set_user({"id": f"after {before and before.id}"})

    @app.get("/", dependencies=[Depends(become)])
    def endpoint(user: CurrentUser) -> Any:
        return user and user.id

    assert client_of(app).get("/", headers=ADA).json() == "after ada"


def test_nobody_is_answered_with_a_401() -> None:
    """A required user who is missing means a 401 that names its challenge."""
    app = add_routes(FastAPI())
    UserContext(app, resolver=account_of)
    answer = client_of(app).get("/must")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_the_challenge_of_a_401_can_be_chosen() -> None:
    """RFC 9110 wants the scheme that the app itself understands."""
    app = FastAPI()
    UserContext(app, resolver=account_of)
    basic = RequireUser('Basic realm="shop"')

    @app.get("/", dependencies=[Depends(basic)])
    def endpoint() -> None: ...

    assert client_of(app).get("/").headers["www-authenticate"] == 'Basic realm="shop"'


def test_an_address_is_no_required_user() -> None:
    """Everybody has one, and nobody is let in for that."""
    app = add_routes(FastAPI())
    UserContext(app, resolver=lambda connection: {"ip_address": "203.0.113.9"})
    assert client_of(app).get("/must").status_code == 401


def test_a_resolver_that_fails_lets_nobody_in() -> None:
    """What cannot be found out is a 401, not an open door."""

    def resolver(connection: Any) -> Any:
        raise LookupError("no database")

    app = add_routes(FastAPI())
    UserContext(app, resolver=resolver)
    assert client_of(app).get("/must", headers=ADA).status_code == 401


def test_the_schema_stays_the_same() -> None:
    """Neither UserContext nor the dependencies show in the OpenAPI document."""

    def build() -> FastAPI:
        app = FastAPI()
        app.get("/a")(lambda: None)
        return app

    plain, ours = build(), build()
    UserContext(ours, resolver=account_of)

    def without() -> None: ...

    def with_users(current: CurrentUser, required: RequiredUser) -> None: ...

    with_users.__name__ = without.__name__
    plain.get("/b")(without)
    ours.get("/b")(with_users)
    assert ours.openapi() == plain.openapi()


# --- dependencies that authenticate ----------------------------------------------------------


def plain(request: Request) -> Any:
    """Find the account in a thread."""
    return account_of(request)


async def asynchronous(request: Request) -> Any:
    """Find the account in a coroutine."""
    return account_of(request)


def plain_yield(request: Request) -> Iterator[Any]:
    """Find the account in a thread, for the time of the request."""
    yield account_of(request)


async def asynchronous_yield(request: Request) -> AsyncIterator[Any]:
    """Find the account in a coroutine, for the time of the request."""
    yield account_of(request)


class Constructed(Account):
    """An account that FastAPI makes."""

    def __init__(self, request: Request) -> None:
        account = account_of(request)
        super().__init__(account.id if account else "", "")


class Instance:
    """Finds the account when FastAPI calls it."""

    async def __call__(self, request: Request) -> Any:
        return account_of(request)


FORMS = [plain, asynchronous, plain_yield, asynchronous_yield, Constructed, Instance()]


@pytest.mark.parametrize(
    "dependency", FORMS, ids=lambda form: getattr(form, "__name__", "instance")
)
def test_a_recorded_dependency_names_the_user(
    usercontext_recorder: RecordingClient, dependency: Any
) -> None:
    """In all six forms: the endpoint gets the model, reports the identity alone."""
    app = FastAPI()
    UserContext(app)

    @app.get("/")
    def endpoint(account: Annotated[Account, Depends(recorded(dependency))]) -> Any:
        capture_message("hello")
        return account.password_hash

    assert client_of(app).get("/", headers=ADA).json() == "secret"
    (event,) = usercontext_recorder.events
    assert event["user"]["id"] == "ada"
    assert "secret" not in str(event["user"])


@pytest.mark.parametrize("dependency", FORMS[:4], ids=lambda form: form.__name__)
def test_set_user_works_in_every_form(
    usercontext_recorder: RecordingClient, dependency: Any
) -> None:
    """A dependency may call `set_user` itself; error, handler of the 500 and report see it."""
    app = add_routes(FastAPI())
    UserContext(app)

    def setting(account: Annotated[Any, Depends(dependency)]) -> None:
        set_user({"id": account.id})

    app.get("/set", dependencies=[Depends(setting)])(lambda: 1 / 0)
    assert client_of(app).get("/set", headers=ADA).json() == "ada"
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "ada"}]


def test_only_the_identity_of_a_recorded_mapping_is_taken(
    usercontext_recorder: RecordingClient,
) -> None:
    """The row that a dependency found is not reported whole."""
    app = FastAPI()
    UserContext(app)

    def row() -> dict[str, Any]:
        return {"id": 7, "username": "ada", "hashed_password": "secret"}

    app.get("/", dependencies=[Depends(recorded(row))])(lambda: 1 / 0)
    client_of(app).get("/")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "7", "username": "ada"}


def test_a_recorded_nobody_is_nobody(usercontext_recorder: RecordingClient) -> None:
    """A dependency that finds nobody says so, whatever a resolver would find."""
    app = FastAPI()
    UserContext(app, resolver=lambda connection: {"id": "found"})
    app.get("/", dependencies=[Depends(recorded(lambda: None))])(lambda: 1 / 0)
    client_of(app).get("/")
    assert "user" not in usercontext_recorder.events[0]


def test_security_scopes_reach_a_recorded_dependency() -> None:
    """`Security(..., scopes=...)` works through it."""
    app = FastAPI()
    UserContext(app)

    def scoped(scopes: SecurityScopes) -> dict[str, str]:
        return {"id": scopes.scope_str}

    @app.get("/")
    def endpoint(user: Annotated[Any, Security(recorded(scoped), scopes=["orders"])]) -> Any:
        return seen()

    assert client_of(app).get("/").json() == "orders"


def test_a_recorded_security_scheme_stays_in_the_schema() -> None:
    """The document shows what the dependency itself asks for, and nothing of ours."""
    bearer = HTTPBearer()

    def account(credentials: Annotated[Any, Depends(bearer)]) -> None: ...

    def schema_with(dependency: Any) -> Any:
        app = FastAPI()

        @app.get("/")
        def endpoint(user: Annotated[Any, Depends(dependency)]) -> None: ...

        return app.openapi()

    assert schema_with(recorded(account)) == schema_with(account)


# --- the whole app ---------------------------------------------------------------------------


def test_the_handler_of_a_500_knows_the_user(usercontext_recorder: RecordingClient) -> None:
    """FastAPI's own stack of middlewares is inside of ours."""
    app = add_routes(FastAPI())
    UserContext(app, resolver=account_of)
    assert client_of(app).get("/boom", headers=ADA).json() == "ada"
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada", "email": "ada@shop.example"}


def test_a_sub_application_shares_the_user(usercontext_recorder: RecordingClient) -> None:
    """Its dependencies and its handler of a 500 know the user of the app around it."""
    app, sub = FastAPI(), add_routes(FastAPI())
    app.mount("/sub", sub)
    UserContext(app, resolver=account_of)
    client = client_of(app)
    assert client.get("/sub/me", headers=ADA).json() == "ada"
    assert client.get("/sub/boom", headers=ADA).json() == "ada"
    assert len(usercontext_recorder.events) == 1


def test_a_handled_error_is_not_reported(usercontext_recorder: RecordingClient) -> None:
    """An HTTPException is an answer, not an error."""
    app = FastAPI()
    UserContext(app, resolver=account_of)

    @app.get("/")
    def endpoint() -> None:
        raise HTTPException(503)

    assert client_of(app).get("/", headers=ADA).status_code == 503
    assert usercontext_recorder.events == []


def test_a_dependencys_end_sees_what_the_endpoint_set(
    usercontext_recorder: RecordingClient,
) -> None:
    """After `yield` a dependency sees the request's user, and its error is theirs."""
    app = FastAPI()
    UserContext(app)

    def failing_end() -> Iterator[None]:
        yield
        raise LookupError(str(seen()))

    app.get("/", dependencies=[Depends(failing_end)])(lambda: set_user({"id": "late"}))
    client_of(app).get("/")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "late"}


def test_the_ready_resolver_is_starlettes() -> None:
    """One import serves an app of FastAPI."""
    from usercontext.frameworks import starlette

    assert request_user is starlette.request_user
