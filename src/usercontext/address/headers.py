"""The headers in which proxies and platforms hand on a client's address; pure."""

from __future__ import annotations

__all__ = ["ADDRESS_HEADERS", "is_address_header"]

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


def is_address_header(name: str | bytes, *, configured: str = "") -> bool:
    """Return whether a header of this name is there to hold a client's address.

    Args:
        name: in any case; some servers and libraries write `_` for `-`.
        configured: the `forwarded_header` of the request's options, in lower case.
    """
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    folded = text.lower().replace("_", "-")
    return folded in ADDRESS_HEADERS or folded == configured
