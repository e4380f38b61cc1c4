"""Reporting what nothing handles outside of requests: in scripts, threads, tasks, and log records.

Each hook calls the one that it found, so that whatever was seen without us is seen as before.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from usercontext.core import capture
from usercontext.core.passage import of_error
from usercontext.core.record import current, record_in
from usercontext.core.settings import default
from usercontext.diagnostics import harmless
from usercontext.privacy.error_texts import safe_error_text, safe_text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from usercontext.core.record import RequestRecord

__all__ = ["unwatch", "watch", "watch_logging", "watch_loops"]

_MESSAGE: Final = "an error that nothing handled could not be reported"
_LEVELS: Final = {"CRITICAL": "fatal", "ERROR": "error", "WARNING": "warning", "INFO": "info"}

#: What undoes each hook, while there are any.
_undo: list[Callable[[], object]] = []
#: The classes of event loops whose handler of exceptions reports as well, and what it was.
_loops: dict[type, Any] = {}


def watch() -> None:
    """Report what reaches `sys.excepthook`, `threading.excepthook` and the loops' handlers."""
    capture.reports_unhandled = True
    _undo.append(_hook_process())
    _undo.append(_hook_threads())
    _undo.append(_hook_collector())
    watch_loops()


def watch_logging(level: str | int) -> None:
    """Report the log records of this level and above that reach the root logger.

    Args:
        level: as `logging` takes it.
    """
    import logging

    handler = _make_handler(level)
    root = logging.getLogger()
    root.addHandler(handler)
    _undo.append(lambda: root.removeHandler(handler))


def unwatch() -> None:
    """Put back what was there before."""
    capture.reports_unhandled = False
    while _undo:
        _undo.pop()()
    while _loops:
        kind, before = _loops.popitem()
        _restore(kind, before)


def _report(error: object, context: Context | None = None) -> None:
    # By `sys.exit()` a script, thread or task ends as it was told to.
    if isinstance(error, BaseException) and not isinstance(error, SystemExit):
        with harmless("unhandled", _MESSAGE):
            capture.report_crash(error, None if context is None else record_in(context))


def _hook_process() -> Callable[[], object]:
    before = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if excepthook in _hooks:
            _report(error)
        before(kind, error, traceback)

    def undo() -> None:
        _hooks.discard(excepthook)
        if sys.excepthook is excepthook:
            sys.excepthook = before

    _hooks.add(excepthook)
    sys.excepthook = excepthook
    return undo


def _hook_threads() -> Callable[[], object]:
    before = threading.excepthook

    def excepthook(args: threading.ExceptHookArgs, /) -> None:
        if excepthook in _hooks:
            _report(args.exc_value)
        before(args)

    def undo() -> None:
        _hooks.discard(excepthook)
        if threading.excepthook is excepthook:
            threading.excepthook = before

    _hooks.add(excepthook)
    threading.excepthook = excepthook
    return undo


#: The threads in which the garbage collector runs.
_collecting: set[int] = set()


def _note_collecting(phase: str, _info: object) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(threading.get_ident())


def _hook_collector() -> Callable[[], object]:
    gc.callbacks.append(_note_collecting)
    return lambda: gc.callbacks.remove(_note_collecting)


#: Ours that report: one that somebody's later hook still calls goes on as if it were not there.
_hooks: set[Callable[..., None]] = set()


def watch_loops() -> None:
    """Report what the event loops of asyncio are told of, and of uvloop where it is loaded."""
    if not capture.reports_unhandled:
        return
    import asyncio.base_events

    _watch_loop(asyncio.base_events.BaseEventLoop)
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None:
        _watch_loop(uvloop.Loop)


def _watch_loop(kind: Any) -> None:
    if kind in _loops:
        return
    before = kind.__dict__.get("call_exception_handler")
    call_before = kind.call_exception_handler

    def call_exception_handler(self: Any, told: dict[str, Any]) -> None:
        error = told.get("exception")
        if kind in _loops and isinstance(error, BaseException):
            with harmless("unhandled", _MESSAGE):
                capture.report_lost(error, _record_of(told, error))
        call_before(self, told)

    _loops[kind] = before
    kind.call_exception_handler = call_exception_handler


def _restore(kind: Any, before: Any) -> None:
    if before is None:
        del kind.call_exception_handler
    else:
        kind.call_exception_handler = before


def _record_of(told: Mapping[str, Any], error: BaseException) -> RequestRecord | None:
    """Return the record of what an event loop reports: of its own context, or of its error.

    A task is often let go much later, in another request or in none. A future belongs to whoever
    lets go of it, as it has no context, but for what the garbage collector finds somewhere.
    """
    context = _context_of(told, error)
    if context is not None:
        return record_in(context) or of_error(error)[1]
    has_passed, record = of_error(error)
    if has_passed or threading.get_ident() in _collecting:
        return record
    return current()


def _context_of(told: Mapping[str, Any], error: BaseException) -> Context | None:
    """Return the context of the task, or of the callback, that an event loop reports."""
    task: Any = told.get("task") or told.get("future")
    for child in getattr(task, "_children", ()):  # what `gather()` waits for
        if child.done() and not child.cancelled() and child.exception() is error:
            task = child
    if hasattr(task, "get_context"):  # from Python 3.12
        return task.get_context()  # type: ignore[no-any-return]
    for part in (task, told.get("handle")):
        # What a task or a callback runs in, it refers to: Python 3.11 has no other way to ask.
        for one in () if part is None else gc.get_referents(part):
            if type(one) is Context:
                return one
    return None


def _message_of(record: logging.LogRecord) -> str:
    """Return what a record says, without the input that errors among its arguments quote."""
    if default().exception_text == "full":
        return record.getMessage()
    args: Any = record.args
    if isinstance(args, tuple) and any(isinstance(one, BaseException) for one in args):
        shown = tuple(safe_error_text(a) if isinstance(a, BaseException) else a for a in args)
        return safe_text(str(record.msg) % shown)
    return safe_text(record.getMessage())


def _make_handler(level: str | int) -> logging.Handler:
    import logging

    class Handler(logging.Handler):
        """Reports a record with its exception, or its text where it has none."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.name.partition(".")[0] == "usercontext":
                return
            with harmless("capture_logging", "a log record could not be reported"):
                error = record.exc_info[1] if record.exc_info else None
                shown = _LEVELS.get(record.levelname, "debug")
                text = _message_of(record)
                capture.capture_record(error, text, level=shown, logger=record.name)

    return Handler(level)
