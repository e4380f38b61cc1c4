"""Ariadne: the user of every GraphQL operation, and the errors of its resolvers."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Unpack
from weakref import WeakKeyDictionary

from ariadne import format_error
from ariadne.asgi import GraphQL
from ariadne.wsgi import GraphQL as WsgiGraphQL
from graphql import GraphQLError, get_operation_ast, parse

from usercontext.calls._operations import (
    Operation,
    OperationContext,
    report_errors,
    tell_context,
)
from usercontext.core.lifecycle import inside
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions

__all__ = ["Operation", "UserContext", "reporting"]

_MARK: Final = "_usercontext_calls"


class UserContext:
    """Report what the resolvers of an Ariadne app raise, with the user of their operation.

    `UserContext(app)`, once, for an `ariadne.asgi.GraphQL` or an `ariadne.wsgi.GraphQL`. Ariadne
    answers 200 to a resolver's error, so that no middleware sees it. Over HTTP an operation has
    the user of its request. On a websocket each operation has a user of its own, in both of
    Ariadne's protocols, and a resolver may read what `connection_init` brought. Views that call
    `graphql()` or `graphql_sync()` themselves have `reporting()`.

    Args:
        app: Ariadne's.
        options: see `ContextOptions`; what is left out comes from the middleware around the
            app, or else from `init()`. The resolver is called with an `Operation`.

    Raises:
        ConfigurationError: an option is wrong, or the app has a `UserContext` already.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Any, **options: Unpack[ContextOptions]) -> None:
        _check(app)
        self._operations = OperationContext(options)
        if isinstance(app, WsgiGraphQL):
            self._go_around_wsgi(app)
        else:
            self._go_around_http(app.http_handler)
            _Socket(app.websocket_handler, self._operations)
        setattr(app, _MARK, self)

    def _go_around_wsgi(self, app: Any) -> None:
        execute_query, get_context = app.execute_query, app.get_context_for_request

        def execute(environ: Any, data: Any) -> Any:
            with self._operations.running_of(Operation(environ, {}, None), _name_in(data)):
                return execute_query(environ, data)

        def context_for(environ: Any, data: Any) -> Any:
            return _told(get_context(environ, data))

        app.execute_query, app.get_context_for_request = execute, context_for
        app.error_formatter = reporting(app.error_formatter)

    def _go_around_http(self, handler: Any) -> None:
        execute_query = handler.execute_graphql_query

        async def execute(request: Any, data: Any, **options: Any) -> Any:
            async with _taken() or self._running(request, data):
                return await execute_query(request, data, **options)

        handler.execute_graphql_query = execute
        _go_around_context(handler)
        handler.error_formatter = reporting(handler.error_formatter)

    def _running(self, request: Any, data: Any) -> RunningCall:
        return self._operations.running_of(Operation(request, {}, None), _name_in(data))


def reporting(
    formatter: Callable[[GraphQLError, bool], Any] = format_error,
) -> Callable[..., Any]:
    """Return an error formatter that reports what resolvers raised, and formats as another does.

    `graphql_sync(schema, data, error_formatter=reporting())`, in a view of your own.

    Args:
        formatter: whose result the client gets.

    .. versionadded:: 0.1.0
    """

    def report_and_format(error: GraphQLError, debug: bool = False) -> Any:
        report_errors([error], _name_of(error))
        return formatter(error, debug)

    return report_and_format


def _name_in(data: Any) -> str | None:
    name = data.get("operationName") if isinstance(data, dict) else None
    return name if isinstance(name, str) else None


def _name_of(error: GraphQLError) -> str | None:
    """Return the name of the operation in which a field failed, where it has one."""
    if error.path is None or error.source is None:
        return None
    found = get_operation_ast(parse(error.source, no_location=True))
    return None if found is None or found.name is None else found.name.value


# --- on a websocket -------------------------------------------------------------------------------


class _Started:
    """An operation of a websocket, which goes on when its first message has been handled."""

    __slots__ = ("is_taken", "running")

    def __init__(self, running: RunningCall) -> None:
        self.running = running
        self.is_taken = False


_started: ContextVar[_Started | None] = ContextVar("usercontext.ariadne", default=None)


class _Socket:
    """What goes around a handler of websockets, of either protocol."""

    def __init__(self, handler: Any, operations: OperationContext) -> None:
        self._operations = operations
        self._params: WeakKeyDictionary[Any, Mapping[str, Any]] = WeakKeyDictionary()
        for name, around in (
            ("handle_websocket_connection_init_message", self._connecting),
            ("handle_websocket_subscribe", self._starting),  # graphql-transport-ws
            ("process_single_message", self._starting),  # graphql-ws
            ("observe_async_results", self._observing),
        ):
            if hasattr(handler, name):
                setattr(handler, name, around(getattr(handler, name)))
        _go_around_context(handler)
        handler.error_formatter = reporting(handler.error_formatter)

    def _connecting(self, connect: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        async def connect_and_keep(websocket: Any, message: Any, *rest: Any) -> None:
            params = message.get("payload")
            if isinstance(params, dict):
                self._params[websocket] = params
            await connect(websocket, message, *rest)

        return connect_and_keep

    def _starting(self, start: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        async def start_apart(websocket: Any, data: Any, *rest: Any) -> None:
            operation = Operation(websocket, self._params.get(websocket, {}), None)
            started = _Started(self._operations.running_of(operation, _name_in(data)))
            token = _started.set(started)
            try:
                with inside(started.running.record):
                    await start(websocket, data, *rest)
            finally:
                _started.reset(token)
                if not started.is_taken:
                    async with started.running:
                        pass

        return start_apart

    def _observing(self, observe: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        def observe_apart(*args: Any) -> Awaitable[None]:
            # Called while the operation starts; what it returns runs in a task of its own.
            running = _taken()
            return observe(*args) if running is None else observed(running, *args)

        async def observed(running: RunningCall, *args: Any) -> None:
            async with running:
                await observe(*args)

        return observe_apart


def _taken() -> RunningCall | None:
    """Return the run of the operation that starts here, to be entered now; None outside of one."""
    started = _started.get()
    if started is None or started.is_taken:
        return None
    started.is_taken = True
    return started.running


def _go_around_context(handler: Any) -> None:
    get_context = handler.get_context_for_request

    async def context_for(request: Any, data: Any) -> Any:
        return _told(await get_context(request, data))

    handler.get_context_for_request = context_for


def _told(context: Any) -> Any:
    tell_context(context)
    return context


def _check(app: object) -> None:
    if not isinstance(app, (GraphQL, WsgiGraphQL)):
        raise ConfigurationError(
            f"UserContext takes an app of Ariadne, not {type(app).__name__}: write "
            "UserContext(app), where app = ariadne.asgi.GraphQL(schema)"
        )
    if hasattr(app, _MARK):
        raise ConfigurationError(
            "this app has a UserContext already: keep one, and give it all options"
        )
