"""gRPC: client interceptors that tell one service who the user is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import grpc
import grpc.aio

from usercontext.services.base import HEADER, Carrier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from usercontext.carried import CarriedIdentity

__all__ = ["CarryingInterceptor", "aio_interceptors"]


class _Channel:
    """Says what the calls of one channel have in their metadata."""

    def __init__(
        self, host: str, carried: CarriedIdentity | None, *, allow_plain_http: bool
    ) -> None:
        self._carrier = Carrier([host], carried=carried, allow_plain_http=allow_plain_http)
        parts = urlsplit(host if "://" in host else f"https://{host}")
        self._target = parts.scheme, parts.hostname or "", parts.port

    def marked(self, details: Any) -> Any:
        """Return the details of a call with our line alone."""
        return _with_line(details, self._carrier.header(*self._target))

    async def marked_async(self, details: Any) -> Any:
        """Do what `marked` does, and await an async resolver first."""
        return _with_line(details, await self._carrier.header_async(*self._target))


class CarryingInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Put the current user into the metadata of a channel's calls.

    `grpc.intercept_channel(channel, CarryingInterceptor("https://billing.internal"))`. The server
    has `CarriedUser(..., hosts=["billing.internal"])` as the resolver of its
    `usercontext.calls.grpc`: a call does not say which name it was made by. For grpc.aio see
    `aio_interceptors()`.

    Args:
        host: the origin that the channel is connected to; https where it has credentials.
        carried: signs; None: `init()`'s.
        allow_plain_http: let another host than this machine be told over a channel without
            credentials.

    Raises:
        ConfigurationError: the host is not an origin, or would be told over plain http.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        host: str,
        *,
        carried: CarriedIdentity | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        self._channel = _Channel(host, carried, allow_plain_http=allow_plain_http)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        """Send a call, with the user in its metadata."""
        return continuation(self._channel.marked(client_call_details), request)

    intercept_unary_stream = intercept_unary_unary
    intercept_stream_unary = intercept_unary_unary
    intercept_stream_stream = intercept_unary_unary


def aio_interceptors(
    host: str, *, carried: CarriedIdentity | None = None, allow_plain_http: bool = False
) -> list[Any]:
    """Return interceptors for a channel of grpc.aio, one for each kind of call.

    `grpc.aio.secure_channel(..., interceptors=aio_interceptors("https://billing.internal"))`.

    Args:
        host: see `CarryingInterceptor`.
        carried: see `CarryingInterceptor`.
        allow_plain_http: see `CarryingInterceptor`.

    Raises:
        ConfigurationError: the host is not an origin, or would be told over plain http.

    .. versionadded:: 0.1.0
    """
    channel = _Channel(host, carried, allow_plain_http=allow_plain_http)
    # grpc.aio takes an interceptor for the first kind of call that its class has.
    return [kind(channel) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


class _AioInterceptor:
    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    async def _intercept(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: Any,
        request: Any,
    ) -> Any:
        return await continuation(await self._channel.marked_async(client_call_details), request)


class _UnaryUnary(_AioInterceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    intercept_unary_unary = _AioInterceptor._intercept


class _UnaryStream(_AioInterceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = _AioInterceptor._intercept


class _StreamUnary(_AioInterceptor, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    intercept_stream_unary = _AioInterceptor._intercept


class _StreamStream(_AioInterceptor, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    intercept_stream_stream = _AioInterceptor._intercept


class _Fields(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Details(_Fields, grpc.ClientCallDetails):  # type: ignore[misc]
    """Details of a call, in the form in which grpcio reads them."""


def _with_line(details: Any, line: str | None) -> Any:
    lines = [(name, value) for name, value in details.metadata or () if name != HEADER]
    if line is not None:
        lines.append((HEADER, line))
    if isinstance(details, grpc.aio.ClientCallDetails):
        return details._replace(metadata=grpc.aio.Metadata(*lines))
    options = (getattr(details, name, None) for name in _Fields._fields[3:])
    return _Details(details.method, details.timeout, lines, *options)
