"""Requests: an adapter that tells listed hosts who the user is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from usercontext.services.base import HEADER, Carrier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests import PreparedRequest, Response

    from usercontext.carried import CarriedIdentity

__all__ = ["CarryingAdapter"]


class CarryingAdapter(HTTPAdapter):
    """Put the current user's header on requests to listed hosts, and on no others.

    `session.mount("https://", CarryingAdapter(hosts=["https://billing.internal"]))`. Each request
    is judged by itself: a redirect to another host loses the header.

    Args:
        hosts: origins, such as "https://billing.internal:8443".
        carried: signs; None: `init()`'s.
        allow_plain_http: let hosts other than this machine be told over http.
        options: what `requests.adapters.HTTPAdapter` takes.

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
        **options: Any,
    ) -> None:
        self._carrier = Carrier(hosts, carried=carried, allow_plain_http=allow_plain_http)
        super().__init__(**options)

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send a request, with the header if its host is listed."""
        parts = urlsplit(request.url or "")
        # A session gives them by name; by their place they are the last of six.
        proxies = options.get("proxies") or (args[4] if len(args) > 4 else None)
        header = self._carrier.header(
            str(parts.scheme),
            str(parts.hostname or ""),
            parts.port,
            by_proxy=select_proxy(request.url or "", proxies) is not None,
        )
        if header is not None or HEADER in request.headers:
            # A copy: the app's own request is what a redirect is made of.
            request = request.copy()
            request.headers.pop(HEADER, None)
            if header is not None:
                request.headers[HEADER] = header
        return super().send(request, *args, **options)
