"""How apps open every public door, checked by type checkers and never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack, assert_type

from fastapi import FastAPI
from flask import Flask
from starlette.requests import HTTPConnection
from werkzeug.wrappers import Request

import usercontext
from usercontext import RequestData, User, asgi, wsgi
from usercontext.clients.sentry_sdk import SentrySdkClient
from usercontext.clients.structlog import StructlogClient
from usercontext.frameworks import flask as of_flask
from usercontext.initialise import InitOptions
from usercontext.testing import RecordingClient
from usercontext.types import Environ, Event, Message, Receive, Resolver, Scope, Send, StartResponse

# --- resolvers: of every kind of request, sync and async --------------------------------------


def of_headers(request: HTTPConnection) -> dict[str, Any] | None:
    """Find the user of an ASGI request."""
    return {"id": request.headers["x-id"]} if "x-id" in request.headers else None


async def of_database(request: HTTPConnection) -> User | None:
    """Find them by something to await."""
    return User(request.headers.get("x-id"))


def of_cookie(request: Request) -> object:
    """Find the user of a WSGI request."""
    return request.cookies.get("session")


resolvers: list[Resolver] = [of_headers, of_database, of_cookie]


def of_nothing() -> User | None:
    """Take no request."""
    return None


no_resolver: Resolver = of_nothing  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# --- init() -----------------------------------------------------------------------------------


def drop_health_checks(event: Event) -> Event | None:
    """Drop an event, or let it pass."""
    return None if event.get("transaction") == "/health" else event


usercontext.init()
usercontext.init(None)
usercontext.init("sqlite:///reports.db", debug=True)
usercontext.init(
    "https://key@sentry.example/1",
    resolver=of_database,
    request_data=RequestData(include_ip=True, trusted_proxies=["10.0.0.0/8"]),
    clients=[SentrySdkClient(), StructlogClient(resolve=True)],
    scrub=["$user.ip_address", ("$user.email", "hash")],
    hash_key=b"0123456789abcdef",
    before_send=drop_health_checks,
    release="shop@1.2.3",
    outbox="outbox.db",
    capture_logging="ERROR",
    exception_text="none",
)
usercontext.init(client=RecordingClient())


def start(**options: Unpack[InitOptions]) -> None:
    """Hand the options on."""
    usercontext.init("sqlite:///reports.db", **options)


start(environment="staging")
start(enviroment="staging")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usercontext.init(include_ip=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
usercontext.init(sample_rate="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usercontext.init(sample_by="user", max_per_user="10/minute")
usercontext.init(sample_by="users")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
usercontext.init(resolver="me")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RequestData(anonymise_ip=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# --- middlewares ------------------------------------------------------------------------------


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""
    message: Message = {"type": "http.response.start", "status": 204}
    await send(message)


def wsgi_app(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer nothing."""
    start_response("204 No Content", [])
    return []


app = FastAPI()
app.add_middleware(asgi.UserContextMiddleware, resolver=of_headers, resolve="eager")
asgi.UserContextMiddleware(asgi_app, resolver=of_database)
asgi.UserContextMiddleware(app)
asgi.UserContextMiddleware(app, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
asgi.UserContextMiddleware(wsgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
wsgi.UserContextMiddleware(wsgi_app, resolver=of_cookie)
wsgi.UserContextMiddleware(asgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
# An instance would be called with the app: the class is what add_middleware takes.
app.add_middleware(asgi.UserContextMiddleware(app))  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]

flask_app = Flask(__name__)
of_flask.UserContext(flask_app, resolver=of_cookie)

# --- the current user -------------------------------------------------------------------------

assert_type(usercontext.get_user(), User | None)
assert_type(usercontext.get_user(resolve=False), User | None)
usercontext.set_user({"id": 7, "plan": "pro"})
usercontext.set_user(User(7))
usercontext.set_user(None)
usercontext.update_user(plan="pro")
assert_type(usercontext.capture_message("hello", level="info"), str | None)
assert_type(usercontext.capture_exception(), str | None)
assert_type(usercontext.flush(1.0), bool)
assert_type(RecordingClient().events, list[Event])


async def awaits() -> None:
    """Await what can be awaited."""
    assert_type(await usercontext.resolve_user(), User | None)
    assert_type(await usercontext.aflush(), bool)


def double(number: int) -> int:
    """Return it twice."""
    return 2 * number


assert_type(usercontext.bind(double)(2), int)
usercontext.bind(double)("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

with usercontext.use_user({"id": 7}), usercontext.isolation_scope(user=User(8), resolver=None):
    pass


def recorded_events(usercontext_recorder: RecordingClient) -> Iterator[str]:
    """Read what the fixture has taken."""
    for event in usercontext_recorder.events:
        yield event["event_id"]
