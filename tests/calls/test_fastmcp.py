"""FastMCP: servers of fastmcp 3.x or 4.x on uvicorn, over every transport."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import fastmcp
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests
from fastmcp.exceptions import ToolError

import usercontext
from tests.calls.mcp_sessions import Session, SseSession
from tests.calls.promises import CallersPromises, Promises, add_tools
from tests.calls.serving import bearer, serving, who
from usercontext import RequestData
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.fastmcp import UserContext
from usercontext.exceptions import ConfigurationError
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The SDK leaves streams and sockets of sessions to the collector, in clients and in servers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("collected"),
]

ADDRESS = RequestData(include_ip=True)


def server_of() -> Any:
    """Return a server with the tools of the tests."""
    server = fastmcp.FastMCP("shop")
    add_tools(server, ToolError)
    return server


def app_of(server: Any, transport: str) -> Any:
    """Return the ASGI app that serves a server by one of its transports."""
    if transport == "sse":
        return server.http_app(transport="sse", path="/sse")
    return server.http_app(
        stateless_http=transport == "stateless", json_response=transport == "json"
    )


@pytest.fixture(scope="class", params=["stateful", "stateless", "json", "sse"])
def transport(request: pytest.FixtureRequest) -> str:
    """One of the ways in which messages come."""
    return str(request.param)


@pytest.fixture(autouse=True)
def recorder() -> RecordingClient:
    """Take the reports of the process."""
    taken = RecordingClient()
    usercontext.init(None, client=taken)
    return taken


@pytest.fixture(scope="class")
def session_of(transport: str) -> Iterator[Callable[..., Session]]:
    """Return what opens sessions, which are closed at the end."""
    opened: list[Session] = []

    def open_session(base: str, opener: str | None) -> Session:
        kind = SseSession if transport == "sse" else Session
        opened.append(kind(base, opener))
        return opened[-1]

    yield open_session
    for one in opened:
        one.close()


class TestBehindTheMiddleware(Promises):
    """The resolver is that of the middleware around the app."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, transport: str) -> Iterator[str]:
        server = server_of()
        UserContext(server)
        app = UserContextMiddleware(
            app_of(server, transport), resolver=bearer, request_data=ADDRESS
        )
        with serving(app) as base:
            yield base


class TestWithoutMiddleware(Promises):
    """The resolver is the server's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, transport: str) -> Iterator[str]:
        server = server_of()
        UserContext(server, resolver=bearer, request_data=ADDRESS)
        with serving(app_of(server, transport)) as base:
            yield base


class TestWithoutOurModule(CallersPromises):
    """Who calls is known by the middleware alone."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, transport: str) -> Iterator[str]:
        app = app_of(server_of(), transport)
        with serving(UserContextMiddleware(app, resolver=bearer)) as base:
            yield base


def test_in_memory_there_is_nobody_unless_the_resolver_says_so(recorder: RecordingClient) -> None:
    """A client without HTTP is nobody, or whoever a resolver called with None names."""
    server = server_of()
    UserContext(server, resolver=lambda request: {"id": "me"} if request is None else None)

    async def ask() -> str:
        async with fastmcp.Client(server) as client:
            result: Any = await client.call_tool("who", {})
            return str(result.data)

    assert asyncio.run(ask()) == "me"


def test_a_tool_that_calls_another_is_one_call(recorder: RecordingClient) -> None:
    """An error that a tool handles is not reported, whoever made it."""
    server = server_of()

    @server.tool()
    async def outer() -> str:
        usercontext.set_user({"id": "set"})
        try:
            await server.call_tool("boom", {})
        except Exception:
            return who()
        return "no error"

    UserContext(server)

    async def ask() -> str:
        async with fastmcp.Client(server) as client:
            result: Any = await client.call_tool("outer", {})
            return str(result.data)

    assert asyncio.run(ask()) == "set"
    assert recorder.events == []


def test_twice_is_refused() -> None:
    """One server has one `UserContext`."""
    server = server_of()
    UserContext(server)
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(server)


def test_what_is_no_server_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match=r"calls\.mcp"):
        UserContext(object())
