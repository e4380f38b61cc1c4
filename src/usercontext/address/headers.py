"""The headers in which proxies and platforms hand on a client's address; pure."""

from __future__ import annotations

import re

from usercontext.address.search import find_addresses, may_hold_ipv6

__all__ = ["ADDRESS_HEADERS", "is_address_header"]

_MAX_LIST = 1024

#: Their names in lower case, `_` folded to `-`.
ADDRESS_HEADERS = frozenset(
    {
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "cf-pseudo-ipv4",
        "client-ip",
        "cloudfront-viewer-address",
        "do-connecting-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "forwarded-for",
        "remote-addr",
        "remote-host",
        "true-client-ip",
        "x-appengine-user-ip",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-forwarded",
        "x-forwarded-for",
        "x-original-forwarded-for",
        "x-real-ip",
        "x-sentry-forwarded-for",
        "x-vercel-forwarded-for",
    }
)


# The words before which a name speaks of the client's address even where it is run together.
_ADDRESS_NAME = re.compile(
    r"(?:\A|-)(?:ip|ips|addr|addrs)(?:-?v?[46])?\Z"
    r"|(?:client|remote|real|peer|socket|source|src|user|viewer|proxy|origin|connecting|connection"
    r"|external|caller|visitor|forwarded)-?(?:ip|addr|address)(?:es|s)?(?:-?v?[46])?(?:-?port)?\Z"
)
# Headers of which a value that looks like an address is the server's, or a version.
_OF_SERVER = re.compile(r"\A(?:host|authority)\Z|-(?:host|server|authority|via)\Z|\Avia\Z|version")
_PARAMETER = re.compile(r"(?i)\b(?:for|by|proto|host|port|unknown|https?|_\w+)\b|[\s,;=\"\[\]]")
_PORT = re.compile(r":\d{1,5}|/\d{1,3}|%\w+")


def is_address_header(name: str | bytes, value: str = "", *, configured: str = "") -> bool:
    """Return whether a header is there to hold a client's address.

    Args:
        name: in any case; some servers and libraries write `_` for `-`.
        value: what the header says; one that is nothing but addresses is there for them.
        configured: the `forwarded_header` of the request's options, in lower case.
    """
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    folded = text.lower().replace("_", "-")
    if folded in ADDRESS_HEADERS or folded == configured:
        return True
    if _ADDRESS_NAME.search(folded) is not None:
        return True
    return bool(value) and _OF_SERVER.search(folded) is None and _holds_nothing_else(value)


def _holds_nothing_else(value: str) -> bool:
    """Return whether a value is an address, or several, with ports and the like."""
    if len(value) > _MAX_LIST or (value.count(".") < 3 and not may_hold_ipv6(value)):
        return False
    rest: list[str] = []
    at = 0
    for start, end, _ in find_addresses(value):
        rest.append(value[at:start])
        at = end
    if not at:
        return False
    left = "".join((*rest, " ", value[at:]))
    return not _PARAMETER.sub("", _PORT.sub("", left)).strip()
