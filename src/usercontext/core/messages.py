"""Messages that outlive, or never were, the request whose context they are served in: MCP's.

The SDK of MCP serves a message in the context of the request that opened its session (1.x), or
of one that has ended by then (SSE). Only the SDK knows which request brought the message; where
it is loaded, it is asked for that, message by message. Requests cost nothing more.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from usercontext.core.lifecycle import inside
from usercontext.core.record import BlockRecord, RequestRecord, current, found_in
from usercontext.core.running import Running
from usercontext.diagnostics import harmless, warn_once
from usercontext.user import User

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["OWN", "record_over", "take_over", "watch_messages"]

#: Set on a server whose messages have records already, by `usercontext.calls`.
OWN: Final = "_usercontext_calls"


def record_over(outer: RequestRecord, source: Mapping[str, Any]) -> RequestRecord:
    """Return a fresh record for a message, from the record of the request that brought it."""
    record = RequestRecord.of(source, outer.settings)
    take_over(outer, record)
    return record


def take_over(outer: RequestRecord, record: RequestRecord, *, found: bool = True) -> None:
    """Let a fresh record know the user that a request was told or has found, ended or not.

    Args:
        outer: the request's.
        record: the fresh one.
        found: whether what the resolver found is the user here, too.
    """
    # Nobody may mean that the request was asked before its authentication.
    if outer.is_explicit or (found and isinstance(outer.user, User)):
        record.user, record.resolution = outer.user, outer.resolution
    if outer.state is not None and outer.state.withheld:
        record.make_state().withheld = True


def watch_messages() -> None:
    """Give every message to a server of the MCP SDK a record of its own, if the SDK is loaded."""
    with harmless("mcp messages", "messages of MCP sessions have no users of their own"):
        lowlevel = sys.modules.get("mcp.server.lowlevel.server")
        runner = sys.modules.get("mcp.server.runner")
        in_1 = _watch(lowlevel, "Server", _handle_message)
        in_2 = _watch(runner, "ServerRunner", _compose_server_middleware)
        if lowlevel is not None and not in_1 and not in_2:
            _warn_of_unknown_version()


def _watch(module: Any, name: str, replacement: Callable[..., Any]) -> bool:
    """Wrap the method that serves a message; return whether it is there."""
    kind = getattr(module, name, None)
    method = getattr(kind, replacement.__name__, None)
    if method is None:
        return False
    if not hasattr(method, OWN):
        watched = replacement(method)
        setattr(watched, OWN, True)
        setattr(kind, replacement.__name__, watched)
    return True


def _warn_of_unknown_version() -> None:
    warn_once(
        "mcp messages: unknown version",
        "messages to an MCP server have no users of their own here: the installed version of mcp "
        "serves them in another way than 1.x and 2.x do; write "
        "usercontext.calls.mcp.UserContext(server), which goes another way, or say in each tool "
        "with `use_user()` who calls it",
    )


def _handle_message(handle: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Go around what serves a message in 1.x."""

    @wraps(handle)
    async def handle_apart(server: Any, message: Any, *args: Any, **options: Any) -> None:
        if hasattr(server, OWN):
            await handle(server, message, *args, **options)
        elif type(getattr(message, "root", None)) in server.notification_handlers:
            with inside(_nobodys()):
                await handle(server, message, *args, **options)
        else:
            metadata = getattr(message, "message_metadata", None)
            request = getattr(metadata, "request_context", None)
            await _served(request, handle, server, message, *args, **options)

    return handle_apart


def _compose_server_middleware(compose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Go around what serves a message in 2.x."""

    @wraps(compose)
    def compose_apart(runner: Any, inner: Any) -> Any:
        call = compose(runner, inner)
        if hasattr(runner.server, OWN):
            return call

        async def call_apart(context: Any) -> Any:
            return await _served(context.request, call, context)

        return call_apart

    return compose_apart


async def _served(
    request: Any, serve: Callable[..., Awaitable[Any]], *args: Any, **options: Any
) -> Any:
    """Serve a message inside of a record of its own, if it was brought by a request of ours."""
    scope = getattr(request, "scope", None)
    outer = found_in(scope) if isinstance(scope, dict) else None
    if outer is None or _is_in_block_of(outer):
        return await serve(*args, **options)
    async with Running(record_over(outer, scope), is_error=_is_answer):  # type: ignore[arg-type]
        return await serve(*args, **options)


def _is_in_block_of(outer: RequestRecord) -> bool:
    """Whether the app has said around the message who its user is, by `use_user`."""
    here = current()
    return isinstance(here, BlockRecord) and here.ended is None and here.root is outer


def _is_answer(_: BaseException) -> bool:
    """Report nothing: that is what `usercontext.calls` is for."""
    return False


class _UntoldRecord(RequestRecord):
    """The record of a message of which the SDK does not tell by which request it came."""

    __slots__ = ()

    def known(self) -> None:
        """Return None, and say why once."""
        warn_once(
            "mcp notifications",
            "a notification of MCP has no user: the SDK of MCP 1.x does not tell by which request "
            "it came; 2.x does",
        )


def _nobodys() -> RequestRecord | None:
    """Return the record of a notification in 1.x: whoever opened the session has not sent it."""
    here = current()
    if type(here) is not RequestRecord:
        return here
    record = _UntoldRecord.of(None, here.settings)
    record.user, record.ended = None, 0.0
    return record
