"""Graphene: the user of every GraphQL operation, and the errors of its resolvers."""

from __future__ import annotations

from functools import wraps
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

import graphql
from graphene import Schema

from usercontext.calls._operations import Operation, OperationContext, report_errors, within
from usercontext.core.lifecycle import inside
from usercontext.event_loop import is_running
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions

__all__ = ["Operation", "UserContext"]

_MARK: Final = "_usercontext_calls"
_OVER: Final = object()


class UserContext:
    """Report what the resolvers of a Graphene schema raise, with the user of their operation.

    `UserContext(schema)`, once, however the schema is served: by graphene-django,
    starlette-graphene3, or a view of your own. A resolver's error is answered with 200, so that no
    middleware sees it. Over HTTP an operation has the user of its request. On a websocket each
    operation has a user of its own, and a resolver may read what `connection_init` brought.

    Args:
        schema: the `graphene.Schema`.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            app, or else from `init()`. The resolver is called with an `Operation`.

    Raises:
        ConfigurationError: an option is wrong, or the schema has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, schema: Any, **options: Unpack[ContextOptions]) -> None:
        _check(schema)
        self._operations = OperationContext(options)
        self._subscribed: dict[tuple[int, int], list[RunningCall]] = {}
        setattr(schema.graphql_schema, _MARK, self)
        self._go_around_subscriptions(schema.graphql_schema)
        _watch_executions()

    # --- an execution: a query, a mutation, an event of a subscription --------------------------

    def execute(self, execution: Any, operation: Any, execute: Callable[[], Any]) -> Any:
        """Execute an operation inside of its run, and report its errors.

        Args:
            execution: GraphQL's.
            operation: the operation, as it was parsed.
            execute: executes it, or returns what is to be awaited.
        """
        running = self._subscribed_as(operation, execution.context_value)
        if running is None:
            running = self._operations.running(execution.context_value, _name_of(operation))
        if not is_running():
            with running, _Reporting(execution, operation):
                return execute()
        with inside(running.record), _Reporting(execution, operation) as reporting:
            result = execute()
            if isawaitable(result):
                reporting.is_over = False
                return _awaited(running, _Reporting(execution, operation), result)
        with running:
            return result

    # --- a subscription -------------------------------------------------------------------------

    def _go_around_subscriptions(self, schema: Any) -> None:
        kind = schema.subscription_type
        for field in () if kind is None else kind.fields.values():
            if field.subscribe is not None:
                field.subscribe = self._subscribing(field.subscribe)

    def _subscribing(self, subscribe: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(subscribe)
        def subscribe_apart(root: Any, info: Any, **arguments: Any) -> Any:
            running = self._operations.running(info.context, _name_of(info.operation))
            with inside(running.record), _Source(info):
                events = subscribe(root, info, **arguments)
            if isawaitable(events):
                return self._stream_awaited(running, info, events)
            return self._stream(running, info, events)

        return subscribe_apart

    async def _stream_awaited(
        self, running: RunningCall, info: Any, events: Awaitable[AsyncIterable[Any]]
    ) -> AsyncIterator[Any]:
        with inside(running.record), _Source(info):
            found = await events
        return self._stream(running, info, found)

    async def _stream(
        self, running: RunningCall, info: Any, events: AsyncIterable[Any]
    ) -> AsyncIterator[Any]:
        key = id(info.operation), id(info.context)
        self._subscribed.setdefault(key, []).append(running)
        iterator = aiter(events)
        try:
            # Step by step: GraphQL may take each in a task of its own, and whoever takes them
            # is left with the record that was current before.
            while True:
                with inside(running.record), _Source(info):
                    event = await anext(iterator, _OVER)
                if event is _OVER:
                    return
                yield event
        finally:
            await self._end(running, key, iterator)

    async def _end(self, running: RunningCall, key: tuple[int, int], iterator: Any) -> None:
        self._subscribed[key].remove(running)
        if not self._subscribed[key]:
            del self._subscribed[key]
        async with running:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()

    def _subscribed_as(self, operation: Any, context: Any) -> RunningCall | None:
        """Return a run inside of the subscription whose event this is; None for another operation.

        Who shares a parsed document and a context value between subscriptions has events of
        nobody's subscription, which then are of who has opened the connection.
        """
        found = self._subscribed.get((id(operation), id(context)), ())
        return within(found[0]) if len(found) == 1 else None


class _Reporting:
    """Reports the errors of an execution at its end."""

    __slots__ = ("_execution", "_operation", "is_over")

    def __init__(self, execution: Any, operation: Any) -> None:
        self._execution = execution
        self._operation = operation
        self.is_over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.is_over:
            raised = [error] if isinstance(error, graphql.GraphQLError) else []
            # The newest of GraphQL 3.2 keep them in an object of their own.
            kept = getattr(self._execution, "collected_errors", self._execution).errors
            report_errors([*kept, *raised], _name_of(self._operation))


class _Source:
    """Reports what the source of a subscription raises, which GraphQL has no path for."""

    __slots__ = ("_info",)

    def __init__(self, info: Any) -> None:
        self._info = info

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            path = [self._info.field_name]
            report_errors([error], _name_of(self._info.operation), path)


async def _awaited(running: RunningCall, reporting: _Reporting, result: Awaitable[Any]) -> Any:
    async with running:
        with reporting:
            return await result


def _name_of(operation: Any) -> str | None:
    return None if operation.name is None else operation.name.value


def _watch_executions() -> None:
    """Go around what executes an operation, whoever calls GraphQL with a schema that is marked."""
    kind: Any = getattr(graphql, "ExecutionContext")  # noqa: B009 - not in all of its versions
    execute_operation = kind.execute_operation
    if hasattr(execute_operation, _MARK):
        return

    @wraps(execute_operation)
    def execute_apart(execution: Any, operation: Any, root_value: Any) -> Any:
        def execute() -> Any:
            return execute_operation(execution, operation, root_value)

        own = getattr(execution.schema, _MARK, None)
        return execute() if own is None else own.execute(execution, operation, execute)

    setattr(execute_apart, _MARK, True)
    kind.execute_operation = execute_apart


def _check(schema: object) -> None:
    if not isinstance(schema, Schema):
        raise ConfigurationError(
            f"UserContext takes a schema of Graphene, not {type(schema).__name__}: write "
            "UserContext(schema), where schema = graphene.Schema(query=Query)"
        )
    if hasattr(schema.graphql_schema, _MARK):
        raise ConfigurationError(
            "this schema has a UserContext already: keep one, and give it all options"
        )
