"""Who is connected, where a server or an adapter has put something else in the peer's place.

Adapters of serverless platforms make the peer of an event, or of a header's text; some servers
make it of a forwarding header, which a client may have written. Each leaves a mark of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from usercontext.address.rewritten import rewriter
from usercontext.source import (
    PROXY_FIX,
    REQUEST_METHOD,
    SERVER_SOFTWARE,
    has_remote_address,
    header_line,
)

if TYPE_CHECKING:
    from usercontext.source import Source

__all__ = ["Peer", "peer_of"]

#: How a peer was found out: what the connection says; what the platform's event says; the
#: platform's own front end, whose address nobody tells; what the server has made of a header and
#: an address can be checked against; what it has made of one, or left out, so that nobody knows.
Origin: TypeAlias = Literal["connection", "event", "front", "checked", "lost"]

# Where adapters of AWS Lambda keep the event: Mangum, apig-wsgi, serverless-wsgi, aws-wsgi, Zappa.
_EVENTS: Final = (
    "aws.event",
    "apig_wsgi.full_event",
    "serverless.event",
    "awsgi.event",
    "lambda.event",
)
_AZURE: Final = "azure_functions.invocation_id"
# pyvoy offers this over WSGI, and tells the peer of no request.
_PYVOY: Final = "wsgi.ext.http.send_trailers"
_MAX_HEADER: Final = 8192


class Peer(NamedTuple):
    """The other end of a request's connection.

    Attributes:
        origin: how it was found out.
        address: what stands for it; of any type, as it comes from outside.
        by: the server or platform that has put it there, where it matters.
    """

    origin: Origin
    address: object
    by: str = ""


def peer_of(source: Source) -> Peer:
    """Return who is connected, as far as the source, read with care, can tell."""
    return _environ_peer(source) if REQUEST_METHOD in source else _scope_peer(source)


# --- serverless ---------------------------------------------------------------------------------


def _platform_peer(source: Source) -> Peer | None:
    for key in _EVENTS:
        event = source.get(key)
        # None first, as nearly always: asking an abstract class costs a hundred times as much.
        if event is not None and isinstance(event, Mapping):
            return _event_peer(event)
    return Peer("front", None, "Azure Functions") if _AZURE in source else None


def _event_peer(event: Mapping[str, Any]) -> Peer:
    """Return who was connected to AWS; of a load balancer's event, nobody."""
    about = _mapping(event.get("requestContext"))
    found = (
        _mapping(about.get("http")).get("sourceIp")
        or _mapping(about.get("identity")).get("sourceIp")
        or _mapping(event.get("identity")).get("sourceIp")
        or _edge_address(event)
    )
    if found is None or "elb" in about:
        return Peer("front", None, "AWS Lambda")
    return Peer("event", found, "AWS Lambda")


def _edge_address(event: Mapping[str, Any]) -> object:
    try:
        return event["Records"][0]["cf"]["request"]["clientIp"]
    except (LookupError, TypeError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# --- WSGI ---------------------------------------------------------------------------------------


def _environ_peer(environ: Source) -> Peer:
    platform = None if SERVER_SOFTWARE in environ else _platform_peer(environ)
    if platform is not None:
        return platform
    original = environ.get(PROXY_FIX)
    found = original if isinstance(original, dict) else environ
    if SERVER_SOFTWARE not in environ and found is environ:
        if environ.get("SERVER_NAME") == "zappa":
            return Peer("lost", None, "Zappa")
        if _PYVOY in environ and not has_remote_address(environ):
            return Peer("lost", None, "pyvoy")
    return Peer("connection", found.get("REMOTE_ADDR"))


# --- ASGI ---------------------------------------------------------------------------------------


def _scope_peer(scope: Source) -> Peer:
    platform = _platform_peer(scope)
    if platform is not None:
        return platform
    client = scope.get("client")
    if not client:
        within = scope.get("wsgi_environ")  # a2wsgi's, on a server that tells no port
        return _environ_peer(within) if isinstance(within, dict) else Peer("connection", None)
    if not isinstance(client, (list, tuple)):
        return Peer("connection", "?")
    port = client[1] if len(client) > 1 else None
    if type(client) is list and _is_of_header(scope, client[0], port):
        return Peer("lost", None, "daphne")
    if type(port) is not int or port != 0 or not client[0]:
        return Peer("connection", client[0])
    name = rewriter(scope)
    # uvicorn reads the header from the right, unless it trusts everybody.
    return Peer("checked", client[0], name) if name == "uvicorn" else Peer("lost", None, name)


def _is_of_header(scope: Source, address: object, port: object) -> bool:
    """Return whether daphne with `--proxy-headers` has made the peer of headers.

    It takes the first entry of X-Forwarded-For and X-Forwarded-Port, and 0 without that.
    """
    forwarded = header_line(scope.get("headers"), b"x-forwarded-for", _MAX_HEADER)
    if forwarded is None:
        return False
    if port == 0:
        return True
    first = forwarded.split(b",")[0].strip().decode("latin-1")
    told = header_line(scope.get("headers"), b"x-forwarded-port", _MAX_HEADER)
    return first == address and told is not None and told.strip() == str(port).encode()
