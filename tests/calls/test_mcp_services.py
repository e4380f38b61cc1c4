"""MCP between two of our own services: the user stands in the header of each message."""

from __future__ import annotations

from typing import Any

import httpx
import itsdangerous
import pytest
import uvicorn  # noqa: F401 - its absence skips these tests

import usercontext
from tests.calls.mcp_sessions import Session
from tests.calls.serving import serving, who
from tests.calls.test_mcp import MCPServer, app_of
from usercontext.calls.mcp import UserContext
from usercontext.carried import CarriedIdentity
from usercontext.resolvers import CarriedUser
from usercontext.services.httpx import CarryingTransport

assert itsdangerous.__name__, "what these tests are skipped without"

CARRIED = CarriedIdentity(keys=["a key of thirty-two bytes or more"], audience="shop")

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.mark.parametrize(("peer", "expected"), [("127.0.0.1", "ada"), ("10.0.0.0/8", "nobody")])
def test_a_tool_has_whoever_sent_its_message(peer: str, expected: str) -> None:
    """In one session each message has its own user, who is believed from trusted peers alone."""
    server: Any = MCPServer("shop")
    server.tool(name="who")(who)
    UserContext(server, resolver=CarriedUser(CARRIED, trusted_proxies=[peer]))
    with serving(app_of(server, "stateful")) as base:
        session = Session(base, None)
        session.http.close()
        session.http = httpx.Client(transport=CarryingTransport(hosts=[base], carried=CARRIED))
        with usercontext.isolation_scope(user={"id": "ada"}):
            assert session.tool(None, "who") == expected
        assert session.tool(None, "who") == "nobody"
        session.close()
