"""MCP: servers of the official SDK, 1.x or 2.x, on uvicorn, over every transport."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import mcp.server
import mcp.types
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests

import usercontext
from tests.calls.mcp_sessions import Session, SseSession
from tests.calls.promises import CallersPromises, Promises, add_tools
from tests.calls.serving import bearer, serving, token, who
from usercontext import RequestData
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.mcp import UserContext
from usercontext.core.messages import watch_messages
from usercontext.exceptions import ConfigurationError
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    IS_2 = True
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError

    IS_2 = False

# The SDK leaves streams and sockets of sessions to the collector, in clients and in servers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

ADDRESS = RequestData(include_ip=True)


def app_of(server: Any, transport: str) -> Any:
    """Return the ASGI app that serves a server by one of its transports."""
    if transport == "sse":
        return server.sse_app()
    options = {"stateless_http": transport == "stateless", "json_response": transport == "json"}
    if IS_2:
        return server.streamable_http_app(**options)
    for name, value in options.items():
        setattr(server.settings, name, value)
    return server.streamable_http_app()


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
        server = MCPServer("shop")
        add_tools(server, ToolError)
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
        server = MCPServer("shop")
        add_tools(server, ToolError)
        UserContext(server, resolver=bearer, request_data=ADDRESS)
        with serving(app_of(server, transport)) as base:
            yield base


@pytest.mark.parametrize("transport", ["stateful"], indirect=True)
def test_an_async_resolver(transport: str, recorder: RecordingClient) -> None:
    """An async resolver is awaited before an error is reported."""

    async def find(request: Any) -> object:
        await asyncio.sleep(0)
        return bearer(request)

    server = MCPServer("shop")
    add_tools(server, ToolError)
    UserContext(server, resolver=find)
    with serving(app_of(server, transport)) as base:
        Session(base, "ada").tool("bob", "boom")
    assert [event["user"]["id"] for event in recorder.events] == ["bob"]


@pytest.mark.parametrize("transport", ["stateful", "sse"], indirect=True)
def test_the_official_client(transport: str, recorder: RecordingClient) -> None:
    """A client of the SDK is told who it is, whichever session it has opened."""
    server = MCPServer("shop")
    add_tools(server, ToolError)
    UserContext(server, resolver=bearer)
    with serving(app_of(server, transport)) as base:
        seen = [asyncio.run(_ask_officially(base, transport, name)) for name in ("ada", "bob")]
    assert seen == ["ada", "bob"]


async def _ask_officially(base: str, transport: str, name: str) -> str:
    from mcp import ClientSession
    from mcp.client import sse, streamable_http

    if transport == "sse":
        connecting: Any = sse.sse_client(f"{base}/sse", headers=token(name))
    elif IS_2:
        import httpx2

        http = httpx2.AsyncClient(headers=token(name))
        connecting = streamable_http.streamable_http_client(f"{base}/mcp", http_client=http)
    else:
        http1 = httpx.AsyncClient(headers=token(name))
        connecting = streamable_http.streamable_http_client(f"{base}/mcp", http_client=http1)
    async with connecting as (read, write, *_), ClientSession(read, write) as session:
        await session.initialize()
        result: Any = await session.call_tool("who", {})
        return str(result.content[0].text)


STDIO = """
import sys
sys.path.insert(0, sys.argv[1])
import usercontext
from tests.calls.serving import who
from tests.calls.test_mcp import MCPServer, UserContext
server = MCPServer("shop")
UserContext(server, resolver=lambda request: {"id": "me"} if request is None else None)
@server.tool(name="who")
async def who_here() -> str:
    return who()
server.run()
"""


def test_stdio() -> None:
    """Over stdio the resolver is called with None, and may name whose process it is."""
    assert asyncio.run(_ask_by_stdio()) == "me"


async def _ask_by_stdio() -> str:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    root = str(Path(__file__).parent.parent.parent)
    program = StdioServerParameters(
        command=sys.executable, args=["-c", STDIO, root], env=dict(os.environ)
    )
    async with stdio_client(program) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        result: Any = await session.call_tool("who", {})
        return str(result.content[0].text)


class TestWithoutOurModule(CallersPromises):
    """Who calls is known by the middleware alone."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, transport: str) -> Iterator[str]:
        server = MCPServer("shop")
        add_tools(server, ToolError)
        with serving(UserContextMiddleware(app_of(server, transport), resolver=bearer)) as base:
            yield base


def test_a_block_around_the_app_stands() -> None:
    """`use_user` between the middleware and the SDK says who calls."""
    server = MCPServer("shop")
    add_tools(server, ToolError)
    inner = app_of(server, "stateless")

    async def acting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        with usercontext.use_user({"id": "eve"}):
            await inner(scope, receive, send)

    with serving(UserContextMiddleware(acting, resolver=bearer)) as base:
        session = Session(base, "ada")
        assert session.tool("bob", "who") == "eve"


@pytest.mark.parametrize("user", ["ada", "bob"])
def test_a_notification_names_nobody_else(user: str, caplog: pytest.LogCaptureFixture) -> None:
    """It has who sends it in 2.x; in 1.x the SDK does not tell, and that is said once."""
    server, seen, heard = MCPServer("shop"), [], threading.Event()

    async def progress(*_: object) -> None:
        seen.append(who())
        heard.set()

    if IS_2:
        params = mcp.types.ProgressNotificationParams
        lowlevel = server._lowlevel_server
        lowlevel.add_notification_handler("notifications/progress", params, progress)
    else:
        server._mcp_server.notification_handlers[mcp.types.ProgressNotification] = progress
    with serving(UserContextMiddleware(app_of(server, "stateful"), resolver=bearer)) as base:
        session = Session(base, "ada")
        told = {"progressToken": 1, "progress": 0.5}
        session.post(user, "notifications/progress", told, is_request=False)
        assert heard.wait(10)
    assert seen == [user if IS_2 else "nobody"]
    assert ("a notification of MCP has no user" in caplog.text) is not IS_2


def test_a_low_level_server(recorder: RecordingClient) -> None:
    """A `Server` of the SDK, below its tools, is taken as well, and is marked."""
    server = mcp.server.Server("shop")
    UserContext(server)
    with pytest.raises(ConfigurationError, match="already"):
        UserContext(server)


def test_what_is_no_server_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="UserContext\\(server\\)"):
        UserContext(object())


def test_outside_of_a_call_there_is_nobody(recorder: RecordingClient) -> None:
    """A tool that the app calls itself has the app's own user."""
    with usercontext.isolation_scope(user={"id": "ada"}):
        assert who() == "ada"


def test_a_version_that_serves_otherwise_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the SDK lacks what is wrapped, the log says once what to write."""
    module, kind, method = (
        ("mcp.server.runner", "ServerRunner", "_compose_server_middleware")
        if IS_2
        else ("mcp.server.lowlevel.server", "Server", "_handle_message")
    )
    monkeypatch.delattr(getattr(sys.modules[module], kind), method)
    for _ in range(2):
        watch_messages()
    said = [record.getMessage() for record in caplog.records if record.name == "usercontext"]
    assert len(said) == 1
    assert "usercontext.calls.mcp.UserContext(server)" in said[0]
