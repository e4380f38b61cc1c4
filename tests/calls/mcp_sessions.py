"""Sessions of MCP spoken by hand, so that every message may come with another token."""

from __future__ import annotations

import json
import queue
import threading
from itertools import count
from typing import Any

import httpx

from tests.calls.serving import token

__all__ = ["Session", "SseSession"]

HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


class Session:
    """One session over streamable HTTP."""

    def __init__(self, base: str, opener: str | None) -> None:
        self.url = f"{base}/mcp"
        self.http = httpx.Client(timeout=20)
        self.numbers = count(1)
        self.id: str | None = None
        self.id = self.post(opener, "initialize", HELLO).headers.get("mcp-session-id")
        self.post(opener, "notifications/initialized", {}, is_request=False)

    def post(
        self, caller: str | None, method: str, params: object, *, is_request: bool = True
    ) -> httpx.Response:
        """Send one message."""
        headers = {"accept": "application/json, text/event-stream", **token(caller)}
        if self.id:
            headers["mcp-session-id"] = self.id
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if is_request:
            message["id"] = next(self.numbers)
        return self.http.post(self.url, headers=headers, json=message)

    def ask(self, caller: str | None, method: str, params: object) -> dict[str, Any]:
        """Send a request; return its answer."""
        text = self.post(caller, method, params).text
        lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
        answers = [line for line in lines if line.strip()]
        return json.loads(answers[-1] if answers else text)

    def tool(self, caller: str | None, name: str, **arguments: object) -> str:
        """Call a tool; return its text."""
        found = self.ask(caller, "tools/call", {"name": name, "arguments": arguments})
        return str(found["result"]["content"][0]["text"])

    def close(self) -> None:
        """Close the connection."""
        self.http.close()


class SseSession(Session):
    """One session over SSE: a POST is answered at once, and its result comes by the stream."""

    def __init__(self, base: str, opener: str | None) -> None:
        self.base = base
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.endpoint = threading.Event()
        self.http = httpx.Client(timeout=20)
        self.numbers = count(1)
        self.listener = threading.Thread(target=self._listen, args=(opener,), daemon=True)
        self.listener.start()
        assert self.endpoint.wait(10)
        self.ask(opener, "initialize", HELLO)
        self.post(opener, "notifications/initialized", {}, is_request=False)

    id = None

    def _listen(self, opener: str | None) -> None:
        url, event = f"{self.base}/sse", ""
        try:
            with (
                httpx.Client(timeout=60) as http,
                http.stream("GET", url, headers=token(opener)) as response,
            ):
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        event = line[6:].strip()
                    elif line.startswith("data:") and event == "endpoint":
                        self.url = self.base + line[5:].strip()
                        self.endpoint.set()
                    elif line.startswith("data:"):
                        self.answers.put(json.loads(line[5:]))
        except httpx.HTTPError:
            return

    def ask(self, caller: str | None, method: str, params: object) -> dict[str, Any]:
        """Send a request; wait for its answer."""
        self.post(caller, method, params)
        return self.answers.get(timeout=20)
