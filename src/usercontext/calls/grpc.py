"""gRPC: the user of every RPC, in servers of grpcio and of grpc.aio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Unpack
from urllib.parse import unquote

import grpc
import grpc.aio

from usercontext.calls.base import CallContext, RunningCall, environ_of
from usercontext.core.current import bind
from usercontext.core.record import KEY, RequestRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from usercontext.core.options import ContextOptions

__all__ = ["AioUserContext", "Rpc", "UserContext"]

_MAX_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Rpc:
    """What the resolver of an RPC is called with.

    Attributes:
        method: its full name, as in `/shop.Orders/Get`.
        metadata: what came with it, by names in lower case; of several lines the last.
        peer: the other end of the connection as gRPC spells it. Callers share connections: it
            says who is connected, and not who calls.
        context: the library's own.
    """

    method: str
    metadata: Mapping[str, str | bytes]
    peer: str
    context: Any


class _Source(Mapping[str, Any]):
    """An RPC in the shape of a WSGI environ, made when somebody asks.

    Attributes:
        method: the RPC's full name.
        context: the library's own.
    """

    __slots__ = ("_made", "context", "method")

    def __init__(self, method: str, context: Any) -> None:
        self.method: str = method
        self.context: Any = context
        self._made: dict[str, Any] | None = None

    def _environ(self) -> dict[str, Any]:
        if self._made is None:
            lines = tuple(self.context.invocation_metadata() or ())
            self._made = environ_of(self.method, _address_of(self.context.peer()), lines)
        return self._made

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value; a record of another request never stands here."""
        return default if key == KEY else self._environ().get(key, default)

    def __getitem__(self, key: str) -> Any:
        return self._environ()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._environ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ())

    def __len__(self) -> int:
        return len(self._environ())


def _rpc_of(source: _Source) -> Rpc:
    context = source.context
    lines = tuple(context.invocation_metadata() or ())
    return Rpc(source.method, dict(lines), context.peer(), context)


class _Interceptor:
    """What both kinds of servers have in common.

    Args:
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with an `Rpc`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    def __init__(self, **options: Unpack[ContextOptions]) -> None:
        self._calls = CallContext(options, is_http=False, make_request=_rpc_of)
        self._wrapped: dict[tuple[str, int], tuple[Any, Any]] = {}

    def _running(self, method: str, context: Any) -> RunningCall:
        # No request carries an RPC, whose record would have to be looked for.
        record = RequestRecord.of(_Source(method, context), self._calls.settings_over(None))
        record.make_state().call = {"type": "grpc", "name": method}
        return RunningCall(record, is_error=_is_error)

    def _wrap(self, handler: Any, method: str) -> Any:
        """Return the handler to be run inside of a record, made once for each method."""
        key = method, id(handler)
        found = self._wrapped.get(key)
        if found is not None and found[0] is handler:
            return found[1]
        wrapped = _wrapped(handler, lambda behavior: self._around(behavior, method, handler))
        if len(self._wrapped) < _MAX_KEPT:  # an app may make a handler for each call
            self._wrapped[key] = handler, wrapped
        return wrapped

    if TYPE_CHECKING:  # what each of the classes below supplies

        def _around(self, behavior: Callable[..., Any], method: str, handler: Any) -> Any: ...


class UserContext(_Interceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """Give every RPC to a server of grpcio a user of its own, and report its unhandled errors.

    `grpc.server(executor, interceptors=[..., UserContext(resolver=find_user)])`, behind the
    interceptors of OpenTelemetry and of authentication. A stream has its user to its end, and so
    have the callbacks of `context.add_callback`. `context.abort()` is an answer.
    """

    def intercept_service(
        self,
        continuation: Callable[[Any], Any],
        handler_call_details: Any,
    ) -> Any:
        """Return the handler of an RPC, to be run inside of its own record."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrap(handler, handler_call_details.method)

    def _around(self, behavior: Callable[..., Any], method: str, handler: Any) -> Any:
        def call(request: Any, context: Any) -> Any:
            with self._running(method, context):
                _bind_callbacks(context)
                return behavior(request, context)

        def stream(request: Any, context: Any) -> Iterator[Any]:
            with self._running(method, context):
                _bind_callbacks(context)
                yield from behavior(request, context)

        return stream if handler.response_streaming else call


class AioUserContext(_Interceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Give every RPC to a server of grpc.aio a user of its own, and report its unhandled errors.

    `grpc.aio.server(interceptors=[..., AioUserContext(resolver=find_user)])`. Handlers may be
    coroutines, generators or plain functions, which run in a thread.
    """

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """Return the handler of an RPC, to be run inside of its own record."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrap(handler, handler_call_details.method)

    def _around(self, behavior: Callable[..., Any], method: str, handler: Any) -> Any:
        if isasyncgenfunction(behavior):
            return self._around_generator(behavior, method)
        if iscoroutinefunction(behavior) or iscoroutinefunction(
            getattr(behavior, "__call__", None)  # noqa: B004
        ):
            return self._around_coroutine(behavior, method)
        # grpc.aio runs it in a thread, without the context of the RPC.
        return UserContext._around(self, behavior, method, handler)

    def _around_coroutine(self, behavior: Callable[..., Any], method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            async with self._running(method, context):
                return await behavior(request, _BoundContext(context))

        return call

    def _around_generator(self, behavior: Callable[..., Any], method: str) -> Any:
        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._running(method, context):
                async for response in behavior(request, _BoundContext(context)):
                    yield response

        return stream


# --- the library's own objects --------------------------------------------------------------------

_KINDS: Final = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _wrapped(handler: Any, around: Callable[[Any], Any]) -> Any:
    """Return a handler like another, with something around what it runs."""
    name, make = _KINDS[handler.request_streaming, handler.response_streaming]
    return make(
        around(getattr(handler, name)),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _bind_callbacks(context: Any) -> None:
    """Have callbacks run with the user of their RPC: gRPC runs them in a thread of its own."""
    add_callback = getattr(context, "add_callback", None)
    if add_callback is None:
        return
    try:
        context.add_callback = lambda callback: add_callback(bind(callback))
    except AttributeError:
        # Immutable metadata of grpc.aio, or of the app: a callback has nobody there.
        return


class _BoundContext(grpc.aio.ServicerContext):  # type: ignore[misc]
    """The context of an RPC of grpc.aio, whose callbacks have the user of their RPC."""

    def __init__(self, context: Any) -> None:
        self._own = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def add_done_callback(self, callback: Callable[..., object]) -> None:
        self._own.add_done_callback(bind(callback))


def _delegate(name: str) -> Callable[..., Any]:
    def call(context: _BoundContext, *args: Any, **options: Any) -> Any:
        return getattr(context._own, name)(*args, **options)

    return call


for _name in vars(grpc.aio.ServicerContext):
    if not _name.startswith("_") and _name not in vars(_BoundContext):
        setattr(_BoundContext, _name, _delegate(_name))
_BoundContext.__abstractmethods__ = frozenset()


def _address_of(peer: str) -> str | None:
    """Return the address in `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`; None for a socket."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host = unquote(rest).rpartition(":")[0]
    return host.strip("[]") or None


def _is_error(error: BaseException) -> bool:
    """Tell errors from `abort()`, by which the client is answered."""
    if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
        return False
    return not (type(error) is Exception and not error.args and _is_raised_by_abort(error))


def _is_raised_by_abort(error: Exception) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__") == "grpc._server"
