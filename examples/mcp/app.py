"""A shop's tools for language models, with a user for every call of a tool."""

import os

from starlette.requests import Request

import usercontext
from usercontext.asgi import UserContextMiddleware
from usercontext.calls.mcp import UserContext

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:  # mcp 1.x
    from mcp.server.fastmcp import FastMCP as MCPServer

PRICES = {1: 12.5}


def user_of(request: Request) -> dict[str, str] | None:
    """Return who sends a message; a shop of your own verifies a token."""
    name = request.headers.get("x-user")
    return None if name is None else {"id": name}


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
server = MCPServer("shop")
UserContext(server)


@server.tool()
def price(article: int) -> str:
    """Return the price of an article; one that is not there fails."""
    return f"{PRICES[article]:.2f}"


app = UserContextMiddleware(server.streamable_http_app(), resolver=user_of)
