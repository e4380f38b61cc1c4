"""Connect: real servers over ASGI and WSGI, and its own client."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pyqwest
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import (
    ConnectASGIApplication,
    ConnectWSGIApplication,
    Endpoint,
    EndpointSync,
)
from protobuf.wkt import StringValue

import usercontext
from tests.calls.serving import (
    bearer,
    named,
    serving,
    start_later,
    token,
    until_cancelled,
    who,
)
from usercontext import RequestData
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.connectrpc import UserContext
from usercontext.wsgi import UserContextMiddleware as WsgiMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from usercontext.testing import RecordingClient

STREAMS = ("Ticks", "Breaks")
METHODS = {
    name: MethodInfo(
        name=name,
        service_name="shop.Orders",
        input=StringValue,
        output=StringValue,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if name in STREAMS else StreamType.UNARY,
    )
    for name in ("Who", "Become", "Boom", "Refuse", "Ticks", "Breaks", "Later", "Endless")
}


class Orders:
    """Handlers as coroutines and generators."""

    async def Who(self, request: StringValue, ctx: Any) -> StringValue:
        return StringValue(value=who())

    async def Become(self, request: StringValue, ctx: Any) -> StringValue:
        usercontext.set_user({"id": request.value})
        return StringValue(value=who())

    async def Boom(self, request: StringValue, ctx: Any) -> StringValue:
        raise RuntimeError("kaboom")

    async def Later(self, request: StringValue, ctx: Any) -> StringValue:
        start_later()
        return StringValue(value=who())

    async def Endless(self, request: StringValue, ctx: Any) -> StringValue:
        await until_cancelled()
        return StringValue(value=who())

    async def Refuse(self, request: StringValue, ctx: Any) -> StringValue:
        raise ConnectError(Code.NOT_FOUND, "sold out")

    async def Ticks(self, request: StringValue, ctx: Any) -> AsyncIterator[StringValue]:
        for _ in range(3):
            yield StringValue(value=who())

    async def Breaks(self, request: StringValue, ctx: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value=who())
        raise RuntimeError("kaboom")


class OrdersSync:
    """Handlers as plain functions and generators."""

    def Who(self, request: StringValue, ctx: Any) -> StringValue:
        return StringValue(value=who())

    def Become(self, request: StringValue, ctx: Any) -> StringValue:
        usercontext.set_user({"id": request.value})
        return StringValue(value=who())

    def Boom(self, request: StringValue, ctx: Any) -> StringValue:
        raise RuntimeError("kaboom")

    def Later(self, request: StringValue, ctx: Any) -> StringValue:
        start_later()
        return StringValue(value=who())

    Endless = Later

    def Refuse(self, request: StringValue, ctx: Any) -> StringValue:
        raise ConnectError(Code.NOT_FOUND, "sold out")

    def Ticks(self, request: StringValue, ctx: Any) -> Iterator[StringValue]:
        for _ in range(3):
            yield StringValue(value=who())

    def Breaks(self, request: StringValue, ctx: Any) -> Iterator[StringValue]:
        yield StringValue(value=who())
        raise RuntimeError("kaboom")


def endpoints_of(kind: Any, service: Any) -> dict[str, Any]:
    """Return the endpoints of a service, as generated code would."""
    made = {}
    for name, method in METHODS.items():
        make = kind.server_stream if name in STREAMS else kind.unary
        made[f"/shop.Orders/{name}"] = make(method=method, function=getattr(service, name))
    return made


class AsgiOrders(ConnectASGIApplication[Orders]):
    """The service over ASGI."""

    path = "/shop.Orders"


class WsgiOrders(ConnectWSGIApplication):
    """The service over WSGI."""

    path = "/shop.Orders"


def asgi_app(**options: Any) -> Any:
    """Return the service over ASGI."""
    return AsgiOrders(
        service=Orders(),
        endpoints=lambda service: endpoints_of(Endpoint, service),
        interceptors=[UserContext(**options)],
    )


def wsgi_app(**options: Any) -> Any:
    """Return the service over WSGI."""
    endpoints = endpoints_of(EndpointSync, OrdersSync())
    return WsgiOrders(endpoints=endpoints, interceptors=[UserContext(**options)])


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(interface: str) -> Iterator[str]:
    """Serve the service over ASGI or WSGI, behind the middleware."""
    if interface == "asgi":
        with serving(UserContextMiddleware(asgi_app(), resolver=bearer)) as base:
            yield base
        return
    app = WsgiMiddleware(wsgi_app(), resolver=bearer)
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@pytest.fixture(params=["asgi", "wsgi"])
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve the service both ways."""
    with served(request.param) as base:
        yield base


def call(
    base: str, caller: str | None, name: str, value: str = "", timeout_ms: int = 20_000
) -> list[str]:
    """Call a method with the library's own client; return what it gave."""
    # By a connection of its own: uvicorn closes one whose app has raised an error.
    with (
        pyqwest.SyncHTTPTransport() as transport,
        ConnectClientSync(base, http_client=pyqwest.SyncClient(transport)) as client,
    ):
        asked = StringValue(value=value)
        options = {"method": METHODS[name], "headers": token(caller), "timeout_ms": timeout_ms}
        if name in STREAMS:
            found = []
            try:
                responses = client.execute_server_stream(request=asked, **options)
                found.extend(response.value for response in responses)
            except ConnectError:
                found.append("failed")
            return found
        try:
            return [client.execute_unary(request=asked, **options).value]
        except ConnectError:
            return ["failed"]


def test_every_rpc_has_its_own_caller(base: str) -> None:
    """Callers alternate, and each RPC and stream is of who sends it."""
    for caller in ("ada", "bob", None, "ada"):
        assert call(base, caller, "Who") == [caller or "nobody"]
        assert call(base, caller, "Ticks") == [caller or "nobody"] * 3
    assert call(base, "ada", "Become", "mallory") == ["mallory"]
    assert call(base, "ada", "Who") == ["ada"]


def test_an_error_names_its_caller(base: str, recorder: RecordingClient) -> None:
    """What a handler raises is reported once, with its caller and the method's name."""
    for caller in ("ada", None, "bob"):
        assert call(base, caller, "Boom") == ["failed"]
    errors = [("RuntimeError", "ada"), ("RuntimeError", None), ("RuntimeError", "bob")]
    assert named(recorder.events) == errors
    assert recorder.events[0]["transaction"] == "/shop.Orders/Boom"


def test_a_stream_that_breaks_is_reported(base: str, recorder: RecordingClient) -> None:
    """An error after the first response names its caller, once."""
    assert call(base, "bob", "Breaks") == ["bob", "failed"]
    assert named(recorder.events) == [("RuntimeError", "bob")]


def test_answers_are_no_errors(base: str, recorder: RecordingClient) -> None:
    """A `ConnectError` reports nothing, nor does a method that is not there."""
    assert call(base, "ada", "Refuse") == ["failed"]
    assert recorder.events == []


def test_without_a_middleware(recorder: RecordingClient) -> None:
    """With a resolver of its own the interceptor does without a middleware, address included."""

    def find(ctx: Any) -> dict[str, str]:
        return {"id": ctx.request_headers["authorization"]}

    app = asgi_app(resolver=find, request_data=RequestData(include_ip=True))
    with serving(app, lifespan="off") as base:
        assert call(base, "ada", "Who") == ["Bearer ada-token"]
        assert call(base, "bob", "Boom") == ["failed"]
    assert recorder.events[0]["user"] == {"id": "Bearer bob-token", "ip_address": "127.0.0.1"}


def test_its_resolver_stands_over_the_middleware(recorder: RecordingClient) -> None:
    """With both, an RPC has the user of the interceptor's resolver."""
    app = asgi_app(resolver=lambda ctx: {"id": ctx.method.name})
    with serving(UserContextMiddleware(app, resolver=bearer)) as base:
        assert call(base, "ada", "Who") == ["Who"]
        call(base, "ada", "Boom")
    assert named(recorder.events) == [("RuntimeError", "Boom")]
