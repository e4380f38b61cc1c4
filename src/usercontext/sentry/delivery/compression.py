"""Compresses what is sent, by the fastest library there is: isal, zlib-ng, or zlib."""

from __future__ import annotations

import zlib

__all__ = ["compressed"]

_FROM_BYTES = 1024
_LEVEL = 1
_GZIP = 31  # of zlib's window bits: the largest window, with gzip's header and trailer

# Here rather than at first use: a fork meanwhile would leave the child with half a module.
try:
    from isal.isal_zlib import compress as _compress
except ImportError:
    try:
        from zlib_ng.zlib_ng import compress as _compress
    except ImportError:
        _compress = zlib.compress


def compressed(body: bytes) -> tuple[bytes, str | None]:
    """Return a body as it is to be sent, and its content coding; a small one stays as it is."""
    if len(body) < _FROM_BYTES:
        return body, None
    return _compress(body, level=_LEVEL, wbits=_GZIP), "gzip"
