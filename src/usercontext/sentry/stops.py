"""Exceptions by which a program stops: they are not failures, and never reported."""

from __future__ import annotations

import sys

__all__ = ["is_stop"]

_STOPS = (KeyboardInterrupt, GeneratorExit)
# Of modules that may not be installed or loaded.
_STOPS_ELSEWHERE = (
    ("asyncio.exceptions", "CancelledError"),
    ("greenlet", "GreenletExit"),
    ("trio", "Cancelled"),
)


def is_stop(error: BaseException) -> bool:
    """Return whether an exception tells that the program, or a task, was told to stop.

    `SystemExit` with a status other than 0 tells that it failed.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, SystemExit):
        return error.code in (None, 0)
    if isinstance(error, _STOPS):
        return True
    for module, name in _STOPS_ELSEWHERE:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return True
    return False
