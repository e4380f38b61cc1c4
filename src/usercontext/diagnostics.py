"""The one place where what goes wrong at run time is caught, counted and logged once.

Nothing here carries a value of a user: a cause is made of names that the app's own code chose.
"""

from __future__ import annotations

__all__ = ["failure", "failures", "forget", "warn_once"]

# A cause is a short text such as "resolver app.auth.load_user". Past this many different
# causes nothing new is logged: an endless supply of names must not fill memory.
_MAX_CAUSES = 1000

_counts: dict[str, int] = {}


def _count(cause: str) -> bool:
    """Count a cause; return whether it is the first of its kind in this process."""
    if cause in _counts:
        _counts[cause] += 1
        return False
    if len(_counts) >= _MAX_CAUSES:
        return False
    _counts[cause] = 1
    return True


def warn_once(cause: str, message: str, *args: object) -> None:
    """Log a warning on the `usercontext` logger the first time this cause is met."""
    if not _count(cause):
        return
    import logging  # 18 ms, and only a process in trouble needs it

    logging.getLogger("usercontext").warning(message, *args)


def failure(cause: str, message: str, *args: object) -> None:
    """Log the exception being handled, with its traceback, the first time this cause is met."""
    if not _count(cause):
        return
    import logging

    logging.getLogger("usercontext").error(message, *args, exc_info=True)


def failures() -> dict[str, int]:
    """Return how often each cause was met in this process, the logged first time included."""
    return dict(_counts)


def forget() -> None:
    """Forget what has been counted and logged, so that it is logged again."""
    _counts.clear()
