"""aiohttp: a client middleware that tells listed hosts who the user is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usercontext.services.base import HEADER, Carrier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

    from usercontext.carried import CarriedIdentity

__all__ = ["CarryingMiddleware"]


class CarryingMiddleware:
    """Put the current user's header on requests to listed hosts, and on no others.

    `ClientSession(middlewares=[CarryingMiddleware(hosts=["https://billing.internal"])])`, of
    aiohttp 3.12 or newer. Each request is judged by itself: a redirect to another host loses the
    header.

    Args:
        hosts: origins, such as "https://billing.internal:8443".
        carried: signs; None: `init()`'s.
        allow_plain_http: let hosts other than this machine be told over http.

    Raises:
        ConfigurationError: a host is not an origin, or would be told over plain http.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        *,
        hosts: Iterable[str],
        carried: CarriedIdentity | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        self._carrier = Carrier(hosts, carried=carried, allow_plain_http=allow_plain_http)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send a request, with the header if its host is listed."""
        url = request.url
        header = await self._carrier.header_async(
            url.scheme, url.raw_host or "", url.port, by_proxy=request.proxy is not None
        )
        request.headers.popall(HEADER, None)
        if header is not None:
            request.headers[HEADER] = header
        return await handler(request)
