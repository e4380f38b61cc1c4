"""What stands where in an ASGI scope and in a WSGI environ.

The rest of the package asks here, so that no reader forgets a key that another one knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Source", "without_addresses"]

#: A scope or an environ.
Source: TypeAlias = "Mapping[str, Any]"

# The peer's address, or its name; ProxyFix keeps there what it has replaced.
_PEER_KEYS = frozenset({"REMOTE_ADDR", "REMOTE_HOST", "client", "werkzeug.proxy_fix.orig"})


def without_addresses(source: Source, names_address: Callable[[str], bool]) -> dict[str, Any]:
    """Copy a scope or environ, or a part of one, without the keys that hold an address.

    Args:
        source: what is copied.
        names_address: whether a header of this name is there to hold an address.
    """
    return {
        key: _without_address_lines(value, names_address) if key == "headers" else value
        for key, value in source.items()
        if key not in _PEER_KEYS and not names_address(key.removeprefix("HTTP_"))
    }


def _without_address_lines(headers: Any, names_address: Callable[[str], bool]) -> Any:
    if not isinstance(headers, (list, tuple)):
        return headers
    return [pair for pair in headers if not (pair and names_address(pair[0]))]
