"""GraphQL, whichever the library: a record for each operation, and its resolvers' errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from usercontext.calls._dataloaders import watch_loaders
from usercontext.calls.base import CallContext, RunningCall, describe
from usercontext.core.capture import report_unhandled
from usercontext.core.lifecycle import is_open
from usercontext.core.record import current, found_in
from usercontext.source import is_websocket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usercontext.core.options import ContextOptions
    from usercontext.core.record import RequestRecord

__all__ = ["Operation", "OperationContext", "part_of", "report_errors", "tell_context", "within"]


@dataclass(frozen=True, slots=True)
class Operation:
    """What the resolver of a GraphQL operation is called with.

    Attributes:
        request: the HTTP request or websocket that carries it, as the library gives it.
        connection_params: on a websocket, the payload of `connection_init`; else empty.
        context: the library's context value.
    """

    request: Any
    connection_params: Mapping[str, Any]
    context: Any


class OperationContext:
    """What applies to the operations of one schema.

    An operation that has an HTTP request to itself shares the record of that. One of many on a
    websocket has its own.

    Args:
        options: see `ContextOptions`. The resolver is called with an `Operation`.
    """

    def __init__(self, options: ContextOptions) -> None:
        self._calls = CallContext(options)

    def running(self, context: Any, name: str | None) -> RunningCall:
        """Return the run of one operation, to be entered.

        Args:
            context: the library's context value.
            name: the operation's name, where the client gave it one.
        """
        request = part_of(context, "request") or part_of(context, "ws")
        params = part_of(context, "connection_params")
        if params is None:
            params = (_source_of(request) or {}).get("connection_params")  # of starlette-graphene3
        return self.running_of(Operation(request, _mapping(params), context), name)

    def running_of(self, operation: Operation, name: str | None) -> RunningCall:
        """Do what `running` does, where the library's context value is not the first to be known.

        Args:
            operation: what the resolver is to be called with.
            name: the operation's name, where the client gave it one.
        """
        watch_loaders()
        scope = _source_of(operation.request)
        outer = current() if scope is None else _record_in(scope) or current()
        if is_open(outer) and not self._calls.has_resolver and not is_websocket(outer.root.source):
            here = current()
            return RunningCall(here if is_open(here) else outer, is_error=_never, is_own=False)
        around = None if outer is None else outer.root.source
        call = {"type": "graphql", "name": name or "anonymous"}
        return self._calls.running(scope or around, operation, call, is_error=_never)


def within(running: RunningCall) -> RunningCall:
    """Return a run inside of another, whose record it shares."""
    return RunningCall(running.record, is_error=_never, is_own=False)


def tell_context(context: object) -> None:
    """Let the resolver of the current operation see the library's context value."""
    record = current()
    state = None if record is None else record.state
    if state is not None and isinstance(state.request, Operation):
        state.request = replace(state.request, context=context)


def _source_of(request: Any) -> Mapping[str, Any] | None:
    """Return the scope or environ of a request, which may be one itself."""
    scope = getattr(request, "scope", request)
    return scope if isinstance(scope, Mapping) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _record_in(scope: Any) -> RequestRecord | None:
    found = found_in(scope)
    return found if is_open(found) else None


def _never(_: BaseException) -> bool:
    """Resolvers' errors are reported where the library has them, each with its path."""
    return False


def part_of(context: Any, name: str) -> Any:
    """Return a part of a library's context value: a mapping, or an object."""
    if isinstance(context, Mapping):
        return context.get(name)
    return getattr(context, name, None)


def report_errors(errors: Iterable[Any], name: str | None, path: Iterable[str | int] = ()) -> None:
    """Report what resolvers raised, as they raised it.

    Errors of syntax and validation, and a `GraphQLError` raised on purpose, are answers.

    Args:
        errors: GraphQL's, or the ones of a subscription's source.
        name: the operation's name.
        path: which field failed, where the error does not tell.
    """
    record = current()
    for error in errors:
        original = _original(error)
        if original is None or record is None:
            continue
        shown = ".".join(map(str, getattr(error, "path", None) or path))
        describe(record, {"type": "graphql", "name": name or "anonymous", "path": shown})
        report_unhandled(original, record)


def _original(error: Any) -> Exception | None:
    """Return what stands behind an error of GraphQL, or behind several."""
    for _ in range(16):
        if not hasattr(error, "original_error"):
            return error if isinstance(error, Exception) else None
        error = error.original_error
    return None
