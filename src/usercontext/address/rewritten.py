"""Who has put an address in the place of the peer, by what stands in the scope, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from usercontext.source import Source

__all__ = ["advice", "advice_on", "rewriter"]

_UNKNOWN: Final = (
    'scope["client"] has port 0: the server, or a middleware before us, has put an address from a '
    "header or an event in the peer's place, and nothing else can be seen; have it leave the peer "
    "as it is, and give trusted_proxies"
)
_UVICORN: Final = (
    'scope["client"] has port 0: uvicorn\'s ProxyHeaders, on by default, rewrote it before us; '
    "start uvicorn with --no-proxy-headers and give trusted_proxies"
)
_DAPHNE: Final = (
    'scope["client"] is what daphne took from the first X-Forwarded-For, which clients write; '
    "start daphne without --proxy-headers and give trusted_proxies"
)
_MANGUM: Final = (
    'scope["client"] has port 0: Mangum took it from the event, where it is right behind an API '
    "Gateway; behind a load balancer it is what clients write into X-Forwarded-For"
)
_PYVOY: Final = (
    "pyvoy takes the peer from the last X-Forwarded-For, from whoever sent it, and tells none over "
    "WSGI; have a proxy in front of it set that header, let nobody else reach it, and give "
    "trusted_hops"
)
_ZAPPA: Final = (
    "REMOTE_ADDR is what Zappa took from X-Forwarded-For, which clients write; give trusted_hops "
    "alone"
)


def rewriter(source: Source) -> str:
    """Return the name of the server or adapter whose scopes these are, "" where it is another's.

    Args:
        source: the scope of a request whose peer is another than the connection's.
    """
    asgi = source.get("asgi")
    told: Any = asgi if isinstance(asgi, dict) else {}
    spec = told.get("spec_version")
    if "aws.event" in source:
        return "Mangum"
    if isinstance(source.get("client"), list) and "version" in told and spec is None:
        return "daphne"
    extensions: Any = source.get("extensions") or ()
    if spec == "2.5" and "http.response.trailers" in extensions:
        return "pyvoy"
    is_uvicorns = spec == ("2.4" if source.get("type") == "websocket" else "2.3")
    return "uvicorn" if is_uvicorns and "state" in source else ""


_ADVICE: Final = {
    "uvicorn": _UVICORN,
    "daphne": _DAPHNE,
    "Mangum": _MANGUM,
    "pyvoy": _PYVOY,
    "Zappa": _ZAPPA,
}


def advice(source: Source) -> str:
    """Return what to say of a rewritten peer; a server is named only where it can be told."""
    return advice_on(rewriter(source))


def advice_on(name: str) -> str:
    """Return what to say of a peer that a server of this name, if it has one, has rewritten."""
    return _ADVICE.get(name, _UNKNOWN)
