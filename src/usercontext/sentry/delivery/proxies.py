"""Which proxy leads to a server: the option's, or the environment's."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from usercontext.exceptions import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from usercontext.sentry.dsn import Dsn

__all__ = ["SOCKS", "by_httpx_url", "environment_proxy", "is_plain", "named_proxy"]

#: Schemes of SOCKS 5; desktops write the first one into ALL_PROXY.
SOCKS: Final = ("socks", "socks5", "socks5h")
_SCHEMES: Final = ("http", "https", *SOCKS)
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://[^/\s]+", re.IGNORECASE)


def named_proxy(value: object) -> str | None:
    """Return the URL that the option `proxy` names; no error shows it: a password may be in it."""
    if value is None:
        return None
    if isinstance(value, str) and _is_understood(value):
        return value
    raise ConfigurationError(
        "proxy must be the URL of a proxy that speaks HTTP or SOCKS 5: write "
        'proxy="http://proxy.example:3128" or proxy="socks5h://proxy.example:1080"'
    )


def environment_proxy(dsn: Dsn) -> str | None:
    """Return the proxy that the environment names for a DSN's server.

    Raises:
        ConfigurationError: its URL is of a kind that is not understood.
    """
    found = getproxies()
    parts = urlsplit(dsn.endpoint)
    name = parts.scheme if found.get(parts.scheme) else "all"
    proxy = found.get(name)
    if not proxy or _is_bypassed(dsn.host, parts.port, found.get("no", "")):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_understood(proxy):
        variable = f"{name.upper()}_PROXY"
        raise ConfigurationError(
            f"the environment's {variable} is not a URL of a proxy that speaks HTTP or SOCKS 5: "
            f"mend it, name {dsn.host} in NO_PROXY, or give the proxy as proxy="
        )
    return proxy


def is_plain(proxy: str | None) -> bool:
    """Return whether a socket will do: a proxy of plain HTTP without a password, of SOCKS, none."""
    if proxy is None:
        return True
    parts = urlsplit(proxy)
    if not (parts.hostname or "").isascii():
        return False
    return parts.scheme in SOCKS or (parts.scheme == "http" and "@" not in parts.netloc)


def by_httpx_url(proxy: str | None) -> str | None:
    """Return a proxy's URL as httpx takes it.

    Raises:
        MissingDependencyError: it is one of SOCKS, which httpx needs a package for.
    """
    if proxy is None or urlsplit(proxy).scheme not in SOCKS:
        return proxy
    if find_spec("socksio") is None:
        raise MissingDependencyError(
            "socksio",
            "sentry",
            purpose='transport="httpx" with a SOCKS proxy',
            problem="run `pip install socksio`, or leave transport= out, which needs nothing",
        )
    return "socks5h" + proxy[proxy.index(":") :]


def _is_understood(proxy: str) -> bool:
    found = _URL.match(proxy)
    if found is None or found[1].lower() not in _SCHEMES:
        return False
    try:
        parts = urlsplit(proxy)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# --- NO_PROXY -----------------------------------------------------------------------------------


def _is_bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    """Return whether a server is reached without the proxy.

    Beside names and their suffixes, NO_PROXY may hold addresses, networks, and ports.
    """
    return any(_matches(entry, host, port) for entry in re.split(r"[\s,]+", no_proxy)) or bool(
        proxy_bypass(f"[{host}]" if ":" in host else host)
    )


def _matches(entry: str, host: str, port: int | None) -> bool:
    if "/" in entry:
        return _holds(entry, host)
    name, colon, only = entry.rpartition(":")
    if colon and only.isdigit() and (":" not in name or name.endswith("]")):
        if port is not None and int(only) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").lstrip(".").lower()
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _holds(network: str, host: str) -> bool:
    import ipaddress  # few name a network

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
