"""What is said of servers that change what proxies have written, each by its own name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from usercontext import diagnostics
from usercontext.source import server_software

if TYPE_CHECKING:
    from usercontext.source import Source

__all__ = ["warn_of_absence", "warn_of_folding"]

# Servers that fold X_Forwarded_For into the environ key of X-Forwarded-For: as SERVER_SOFTWARE
# begins, as a key of theirs, and as a module of theirs where they have neither.
_FOLDING: Final = ("wsgiserver/", "granian", "cheroot", "hypercorn")
_FOLDING_KEYS: Final = {"uwsgi.version": "uWSGI", "wsgi.ext.http.send_trailers": "pyvoy"}
_FOLDING_MODULES: Final = {"hypercorn.app_wrappers": "hypercorn"}

# Requests of trusted proxies without the header, before anybody is told.
_ABSENT_BEFORE_WARNING: Final = 10


def warn_of_folding(source: Source) -> None:
    """Say once that a WSGI server takes one header for another."""
    name = _folding(source)
    if name:
        diagnostics.warn_once(
            "client-ip: underscore headers",
            "this WSGI server (%s) takes X_Forwarded_For for X-Forwarded-For, so a client may add "
            "to the header: let the proxy drop headers with underscores",
            name,
        )


def warn_of_absence(header: str, server: str, count: int) -> bool:
    """Say once that trusted peers' requests have no header, and why that may be.

    Args:
        header: the one that is read.
        server: the WSGI server's name.
        count: how many such requests have come, without one that has it.

    Returns:
        Whether it has been said.
    """
    if server.lower().startswith("waitress"):
        diagnostics.warn_once(
            "client-ip: waitress",
            "waitress removes %s by default, so that every client is the proxy: start it with "
            "clear_untrusted_proxy_headers=False (--no-clear-untrusted-proxy-headers)",
            header,
        )
        return True
    if count < _ABSENT_BEFORE_WARNING:
        return False
    diagnostics.warn_once(
        "client-ip: no header",
        "the first %d requests of trusted proxies had no %s, so that the proxy's address is "
        "reported: let the proxy write it; one that only passes it on lets every client choose",
        count,
        header,
    )
    return True


def _folding(source: Source) -> str | None:
    software = server_software(source)
    if software.lower().startswith(_FOLDING):
        return software
    for key, name in _FOLDING_KEYS.items():
        if key in source:
            return name
    if software or "wsgi.version" not in source:
        return None
    return next((name for key, name in _FOLDING_MODULES.items() if key in sys.modules), None)
