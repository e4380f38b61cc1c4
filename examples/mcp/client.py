"""Call the shop's tool as ada, for an article that is not there."""

import httpx

HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "client", "version": "1"},
}
ACCEPT = {"accept": "application/json, text/event-stream", "x-user": "ada"}

with httpx.Client(base_url="http://127.0.0.1:8000", headers=ACCEPT) as client:

    def post(method: str, params: dict) -> httpx.Response:
        """Send one message."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return client.post("/mcp", json=body)

    opened = post("initialize", HELLO)
    client.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
    print(post("tools/call", {"name": "price", "arguments": {"article": 7}}).text)
