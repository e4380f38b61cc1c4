"""The one place where what goes wrong at run time is caught, counted and logged once.

Nothing here carries a value of a user: a cause is made of names that the app's own code chose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["error_once", "failure", "failures", "forget", "harmless", "show_texts", "warn_once"]

# A cause is a short text such as "resolver app.auth.load_user". Past this many different
# causes nothing new is logged: an endless supply of names must not fill memory.
_MAX_CAUSES = 1000

# How far a chain of causes is followed, which may lead back to where it began.
_MAX_CAUSES_SHOWN = 5

_TEXT = "(its text is left out, as it may hold a user's data)"

_counts: dict[str, int] = {}
_shows_texts = False

# Which classes of failures of a cause have been logged: another one has another reason.
_logged: set[tuple[str, str]] = set()


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


def error_once(cause: str, message: str, *args: object) -> None:
    """Log an error in one line, where a traceback would tell nothing more."""
    if not _count(cause):
        return
    import logging

    logging.getLogger("usercontext").error(message, *args)


def failure(cause: str, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log an exception with its traceback, not its text, once for its cause and class.

    A resolver that fails for strangers with KeyError must not hide for good that it fails for
    everybody with OperationalError.

    It comes first and alone: what the app was handling at the time is another matter.

    Args:
        cause: a short text of names alone, the same for every failure of the kind.
        message: what failed and what follows from it, as the logger's format.
        args: what the format names; never a value of a user.
        error: the exception; by default the one being handled.
    """
    import sys

    error = error or sys.exc_info()[1]
    _count(cause)
    kind = (cause, "" if error is None else f"{type(error).__module__}.{type(error).__qualname__}")
    if kind in _logged or len(_logged) >= _MAX_CAUSES:
        return
    _logged.add(kind)
    import logging

    shown = _stand_in(error, _handled_outside(error, sys._getframe()))
    logging.getLogger("usercontext").log(logging.ERROR, message, *args, exc_info=shown)


def show_texts(shows: bool, /) -> bool:
    """Log the texts of exceptions too, or leave them out; return what was done before."""
    global _shows_texts
    before, _shows_texts = _shows_texts, shows
    return before


def _handled_outside(error: BaseException | None, frame: FrameType | None) -> BaseException | None:
    """Return the exception that was being handled when the code that failed was called.

    It was caught in a frame that still runs; what the failing code caught itself, in one that
    has ended.
    """
    running = set()
    while frame is not None:
        running.add(frame)
        frame = frame.f_back
    for _ in range(_MAX_CAUSES_SHOWN):
        error = None if error is None else error.__context__
        traceback = None if error is None else error.__traceback__
        if traceback is not None and traceback.tb_frame in running:
            return error
    return None


def _stand_in(
    error: BaseException | None, outside: BaseException | None, depth: int = 0
) -> BaseException | None:
    """Return one with an exception's type, traceback and causes, and not its text.

    The text is the app's: "no such customer: ada@shop.example" belongs into no log of ours.
    """
    if error is None or error is outside or depth > _MAX_CAUSES_SHOWN:
        return None
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    text = _text_of(error) if _shows_texts else _TEXT
    shown: BaseException = type(kind.__name__, (Exception,), names)(text)
    shown.__cause__ = _stand_in(error.__cause__, outside, depth + 1)
    shown.__context__ = _stand_in(error.__context__, outside, depth + 1)
    shown.__suppress_context__ = error.__suppress_context__
    return shown.with_traceback(error.__traceback__)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the app's own `__str__`
        return "(its text cannot be told)"


class harmless:  # noqa: N801 - it reads as what it makes of a block: `with harmless(...):`
    """Run a block whose failure harms nobody: an Exception is logged once and counted.

    Cancellation, KeyboardInterrupt and SystemExit pass through. `failed` tells the outcome.
    """

    __slots__ = ("_args", "_cause", "_message", "failed")

    def __init__(self, cause: str, message: str, *args: object) -> None:
        self._cause = cause
        self._message = message
        self._args = args
        self.failed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.failed = True
        failure(self._cause, self._message, *self._args, error=error)
        return True


def failures() -> dict[str, int]:
    """Return how often each cause was met in this process, the logged first time included."""
    return dict(_counts)


def forget() -> None:
    """Forget what has been counted and logged, so that it is logged again."""
    _counts.clear()
    _logged.clear()
