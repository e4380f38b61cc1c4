"""Strawberry: the user of every GraphQL operation, and the errors of its resolvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from strawberry.extensions import SchemaExtension
from strawberry.schema import Schema

from usercontext.calls._operations import Operation, OperationContext, report_errors
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions

__all__ = ["Operation", "UserContext"]

_MARK = "_usercontext_calls"


class UserContext:
    """Report what the resolvers of a Strawberry schema raise, with the user of their operation.

    `UserContext(schema)`, once. Strawberry answers 200 to a resolver's error, so that no
    middleware sees it. Over HTTP an operation has the user of its request. On a websocket each
    operation has a user of its own: `set_user()` in one names no other, and a resolver may read
    what `connection_init` brought.

    Args:
        schema: the `strawberry.Schema`.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            app, or else from `init()`. The resolver is called with an `Operation`.

    Raises:
        ConfigurationError: an option is wrong, or the schema has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, schema: Any, **options: Unpack[ContextOptions]) -> None:
        _check(schema)
        operations = OperationContext(options)
        get_extensions, process_errors = schema.get_extensions, schema.process_errors

        def get_with_ours(sync: bool = False) -> list[Any]:
            ours = _Serving if sync else _ServingAsync
            return [ours(operations), *get_extensions(sync=sync)]

        def process_and_report(errors: list[Any], execution_context: Any = None) -> None:
            report_errors(errors, getattr(execution_context, "operation_name", None))
            process_errors(errors, execution_context)

        schema.get_extensions, schema.process_errors = get_with_ours, process_and_report
        setattr(schema, _MARK, self)


class _Serving(SchemaExtension):  # type: ignore[misc, unused-ignore]
    """The hook around every operation that is executed at once."""

    def __init__(self, operations: OperationContext) -> None:
        self._operations = operations

    def _running(self) -> RunningCall:
        context = self.execution_context
        return self._operations.running(context.context, context.operation_name)

    def on_operation(self) -> Iterator[None]:
        with self._running():
            yield


class _ServingAsync(_Serving):
    """The hook around every operation that may await."""

    async def on_operation(self) -> AsyncIterator[None]:  # type: ignore[override]
        async with self._running():
            yield


def _check(schema: object) -> None:
    if not isinstance(schema, Schema):
        raise ConfigurationError(
            f"UserContext takes a schema of Strawberry, not {type(schema).__name__}: write "
            "UserContext(schema), where schema = strawberry.Schema(Query)"
        )
    if hasattr(schema, _MARK):
        raise ConfigurationError(
            "this schema has a UserContext already: keep one, and give it all options"
        )
