"""Capturing a report: an exception or a message, with the user of its request."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from usercontext.core import context, passage
from usercontext.core import record as records
from usercontext.core.settings import default
from usercontext.diagnostics import harmless, warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.record import RequestRecord
    from usercontext.types import Event, Reporter

__all__ = [
    "capture_exception",
    "capture_message",
    "capture_record",
    "mark_reported",
    "report_crash",
    "report_lost",
    "report_unhandled",
]

#: Whether `init()` asked for reports of what nothing handles outside of requests.
reports_unhandled = False


def capture_exception(error: BaseException | None = None) -> str | None:
    """Report an exception with the current request's user; return the event's id.

    Args:
        error: the exception; by default the one being handled.

    Returns:
        None if nothing was reported: `init()` gave no client, there is no exception, the same
        object was reported in this request before, or it was dropped (sampled out, queue full).
    """
    if error is None:
        error = sys.exc_info()[1]
    if error is None:
        return None
    given: object = error
    if not isinstance(given, BaseException):
        warn_once(
            "capture_exception: no exception",
            "capture_exception() reports nothing: it was given a value of type %s, which is no "
            "exception: write capture_exception(error) or, for a text, capture_message(text)",
            type(given).__name__,
        )
        return None
    return _capture_exception(error, _record_for(error), handled=True)


def capture_message(message: str, level: str = "info") -> str | None:
    """Report a message with the current request's user; return the event's id, or None.

    Args:
        message: the text, as it is.
        level: "fatal", "error", "warning", "info" or "debug".
    """
    return _capture(records.current(), lambda client: client.build_message(message, level=level))


def report_unhandled(error: BaseException, record: RequestRecord) -> None:
    """Report an error that the app let pass, or that its framework swallowed.

    One raised in a `use_user` block names that block's user. Handlers further out, that find the
    record by the error, find the client's address too.
    """
    passage.attach(error, record)
    context.collected_address(record)
    carried = passage.of_error(error)[1]
    _capture_exception(error, carried or record, handled=False)


def report_crash(error: BaseException, record: RequestRecord | None = None) -> None:
    """Report an error that ended a script or a thread, unless somebody has reported it.

    Args:
        error: what nothing handled.
        record: of the request or scope that it left, where it is known.
    """
    report_lost(error, record or _record_for(error))


def report_lost(error: BaseException, record: RequestRecord | None) -> None:
    """Report what nothing handled, unless somebody has reported it; None names nobody.

    Whatever request is current there need not have anything to do with it.
    """
    if not passage.was_ever_reported(error):
        _capture_exception(error, record, handled=False)


def capture_record(error: BaseException | None, text: str, *, level: str, logger: str) -> None:
    """Report a log record: its exception, once as any other, or its text where it has none.

    Args:
        error: the record's exception.
        text: what it says.
        level: as for `capture_message`.
        logger: whose record it is.
    """

    def build(client: Reporter) -> Event | None:
        if error is None:
            event = client.build_message(text, level=level)
        else:
            event = client.build_exception(error, level=level)
        if event is not None:
            event["logger"] = logger
        return event

    record = records.current() if error is None else _record_for(error)
    if error is None or _is_wanted(error, record, handled=True):
        _capture(record, build)


def mark_reported(error: Exception, record: RequestRecord) -> None:
    """Leave out an error by which a framework only says again what has been reported."""
    _is_first_report(error, record.root)


def _record_for(error: BaseException) -> RequestRecord | None:
    """The current request's record; further out, the one that the exception carries."""
    record = records.current()
    return passage.of_error(error)[1] if record is None else record


def _capture_exception(
    error: BaseException, record: RequestRecord | None, *, handled: bool
) -> str | None:
    if not _is_wanted(error, record, handled=handled):
        return None
    return _capture(record, lambda client: _drafter(client)(error, handled=handled))


def _drafter(client: Reporter) -> Callable[..., Event | None]:
    """Return what builds reports of exceptions; the built-in client has parts made later."""
    drafter: Callable[..., Event | None] = getattr(
        client, "draft_exception", client.build_exception
    )
    return drafter


def _is_wanted(error: BaseException, record: RequestRecord | None, *, handled: bool) -> bool:
    """Return whether to report an exception, and note that it is: once in each request."""
    if _is_ignored(error, record, handled=handled):
        return False
    if record is not None:
        return _is_first_report(error, record.root)
    passage.mark_reported(error, None)
    return True


def _is_ignored(error: BaseException, record: RequestRecord | None, *, handled: bool) -> bool:
    from usercontext.core.ignored import is_client_gone  # of use in an app that fails

    ignored = (default() if record is None else record.settings).ignored
    return (ignored is not None and error in ignored) or (not handled and is_client_gone(error))


def _is_first_report(error: BaseException, record: RequestRecord) -> bool:
    """Mark an exception as reported by a request, unless it is so already."""
    if passage.is_reported(error, record):
        return False
    passage.mark_reported(error, record)
    return True


def _capture(
    record: RequestRecord | None, prepare: Callable[[Reporter], Event | None]
) -> str | None:
    client = default().client
    if client is None:
        return None
    event = None
    with harmless("built-in client", "a report could not be made"):
        event = prepare(client) if context.is_wanted(record, client) else None
        if event is None:
            return None
        if record is None:
            return client.send(event, scrub=default().scrub)
        context.describe(record, event)
        return context.report(record, event, client)
    if event is not None:
        # What is to be hidden in it may stand there still.
        _discard(client)
    return None


def _discard(client: Reporter) -> None:
    discard: Callable[[str], None] | None = getattr(client, "discard", None)
    if discard is not None:
        discard("internal_sdk_error")
