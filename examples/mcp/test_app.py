"""The MCP example: a failing tool is reported with who called it."""

import asyncio
import json
from types import ModuleType

import pytest

from usercontext.testing import RecordingClient

pytest.importorskip("mcp.server")
httpx = pytest.importorskip("httpx")

HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def call_price(app: object, users: list[str | None]) -> list[str]:
    """Open a session, and call the tool in the name of one user after another."""
    told = []
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:

        async def post(method: str, params: object, headers: dict[str, str]) -> httpx.Response:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return await client.post("/mcp", json=body, headers={**ACCEPT, **headers})

        opened = await post("initialize", HELLO, {})
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        for user in users:
            who = {} if user is None else {"x-user": user}
            called = {"name": "price", "arguments": {"article": 7}}
            told.append((await post("tools/call", called, {**session, **who})).text)
    return told


def test_a_tool_names_its_caller(shop: ModuleType, usercontext_recorder: RecordingClient) -> None:
    """Calls of ada, of bob and of nobody in one session are reported as such."""

    async def run() -> list[str]:
        async with shop.server.session_manager.run():
            return await call_price(shop.app, ["ada", "bob", None])

    assert all(json.dumps("price")[1:-1] in text for text in asyncio.run(run()))
    users = [(event.get("user") or {}).get("id") for event in usercontext_recorder.events]
    assert users == ["ada", "bob", None]
