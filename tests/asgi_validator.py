"""Check the messages between an ASGI server and an app against the specification, both ways.

What the "HTTP & WebSocket" specification, version 2.5, says of types, keys and their order, as
far as an app or a middleware can break it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ProtocolError", "validated"]

_RECEIVED = {
    "http": {"http.request", "http.disconnect"},
    "websocket": {"websocket.connect", "websocket.receive", "websocket.disconnect"},
}

# What may be sent in a state, and the state that follows.
_SENT = {
    ("http", "new"): {"http.response.start": "started"},
    ("http", "started"): {"http.response.body": "started"},
    ("websocket", "new"): {"websocket.accept": "open", "websocket.close": "closed"},
    ("websocket", "open"): {"websocket.send": "open", "websocket.close": "closed"},
}


class ProtocolError(AssertionError):
    """A message breaks the ASGI specification."""


def validated(app: Any) -> Any:
    """Return the app with every message, sent and received, checked."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        kind = scope["type"]
        state = "new"

        async def checked_receive() -> Any:
            message = await receive()
            if message["type"] not in _RECEIVED[kind]:
                raise ProtocolError(f"received {message['type']} on {kind}")
            return message

        async def checked_send(message: Any) -> None:
            nonlocal state
            allowed = _SENT.get((kind, state), {})
            if message["type"] not in allowed:
                raise ProtocolError(f"sent {message['type']} while {state}")
            _check_keys(message)
            state = allowed[message["type"]]
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                state = "closed"
            await send(message)

        await app(scope, checked_receive, checked_send)
        if kind == "http" and state != "closed":
            raise ProtocolError(f"the app returned while {state}")

    return serve


def _check_keys(message: dict[str, Any]) -> None:
    for name, value in message.get("headers") or ():
        if not (isinstance(name, bytes) and isinstance(value, bytes) and name == name.lower()):
            raise ProtocolError("a header is not a pair of bytes with a lower-case name")
    if not isinstance(message.get("status", 200), int):
        raise ProtocolError("a status is not an int")
    if not isinstance(message.get("body", b""), bytes):
        raise ProtocolError("a body is not bytes")
