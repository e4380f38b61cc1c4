"""How calls that are not an HTTP request have a user, checked by type checkers and never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from usercontext.calls import aws_lambda, fastmcp, grpc, mcp, socketio, strawberry

# Each is checked, whether or not its library is installed beside the type checker.
server: Any = None


def of_call(call: Any) -> dict[str, str] | None:
    """Find the user of a call."""
    return None


def of_rpc(rpc: grpc.Rpc) -> dict[str, str] | None:
    """Find the user of a remote call."""
    return None


def of_event(event: socketio.Event) -> dict[str, str] | None:
    """Find the user of an event."""
    return None


def handle(event: Any, context: Any) -> str:
    """Handle an invocation."""
    return "done"


def handle_record(record: dict[str, Any]) -> None:
    """Handle one record of a batch."""


mcp.UserContext(server, resolver=of_call)
fastmcp.UserContext(server, resolver=of_call)
grpc.UserContext(resolver=of_rpc)
grpc.AioUserContext(resolver=of_rpc)
socketio.UserContext(server, remember=True, resolver=of_event)
strawberry.UserContext(server, resolver=of_call)
handler: Callable[[Any, Any], Any] = aws_lambda.UserContext(handle, resolver=of_call)
batch = aws_lambda.BatchUserContext(handle_record, partial=True, resolver=of_call)
assert_type(batch({"Records": []}, None), dict[str, Any])

mcp.UserContext(server, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
socketio.UserContext(server, remembers=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
strawberry.UserContext(server, resolver="me")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
aws_lambda.UserContext(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
