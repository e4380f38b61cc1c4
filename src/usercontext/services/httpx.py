"""httpx: a transport that tells listed hosts who the user is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from usercontext.services.base import HEADER, Carrier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usercontext.carried import CarriedIdentity

__all__ = ["CarryingTransport"]


class CarryingTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Put the current user's header on requests to listed hosts, and on no others.

    `httpx.Client(transport=CarryingTransport(hosts=["https://billing.internal"]))`, and the same
    for an `AsyncClient`. Each request is judged by itself: a redirect to another host loses the
    header.

    Args:
        transport: what sends; None: httpx's own.
        hosts: origins, such as "https://billing.internal:8443".
        carried: signs; None: `init()`'s.
        allow_plain_http: let hosts other than this machine be told over http.

    Raises:
        ConfigurationError: a host is not an origin, or would be told over plain http.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        transport: Any = None,
        *,
        hosts: Iterable[str],
        carried: CarriedIdentity | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        self._carrier = Carrier(hosts, carried=carried, allow_plain_http=allow_plain_http)
        self._sync: Any = transport
        self._async: Any = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, with the header if its host is listed."""
        if self._sync is None:
            self._sync = httpx.HTTPTransport()
        header = self._carrier.header(*_target(request))
        response: httpx.Response = self._sync.handle_request(_with_header(request, header))
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Do what `handle_request` does, for an `AsyncClient`."""
        if self._async is None:
            self._async = httpx.AsyncHTTPTransport()
        header = await self._carrier.header_async(*_target(request))
        sending = self._async.handle_async_request(_with_header(request, header))
        response: httpx.Response = await sending
        return response

    def __enter__(self) -> Self:
        if self._sync is not None:
            self._sync.__enter__()
        return self

    def close(self) -> None:
        """Close the transport that sends."""
        if self._sync is not None:
            self._sync.close()

    async def __aenter__(self) -> Self:
        if self._async is not None:
            await self._async.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close the transport that sends."""
        if self._async is not None:
            await self._async.aclose()


def _target(request: httpx.Request) -> tuple[str, str, int | None]:
    url = request.url
    return url.scheme, url.raw_host.decode("ascii"), url.port


def _with_header(request: httpx.Request, header: str | None) -> httpx.Request:
    """Return a request with our header alone: the app's own is what a redirect is made of."""
    if header is None and HEADER not in request.headers:
        return request
    headers = request.headers.copy()
    headers.pop(HEADER, None)
    if header is not None:
        headers[HEADER] = header
    return httpx.Request(
        request.method,
        request.url,
        headers=headers,
        stream=request.stream,
        extensions=request.extensions,
    )
