"""What Django announces: an error that it answers itself, and who logs in or out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.http import Http404
from django.http.multipartparser import MultiPartParserError

from usercontext import event_loop
from usercontext.core.capture import report_unhandled
from usercontext.core.context import ask
from usercontext.core.record import UNKNOWN, RequestRecord, current
from usercontext.core.settings import default
from usercontext.frameworks.base import record_in
from usercontext.frameworks.django.users import in_foreign_thread, request_user

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = ["ask_at_last", "connect", "is_answered", "source_of"]

# What `response_for_exception` answers with a 4xx, and announces to nobody.
_ANSWERED = (Http404, PermissionDenied, SuspiciousOperation, BadRequest, MultiPartParserError)


def connect() -> None:
    """Listen, once per process, whatever the number of middlewares."""
    # In the place of the plain middlewares' receiver, which knows less of Django.
    got_request_exception.disconnect(dispatch_uid="usercontext")
    got_request_exception.connect(_report, dispatch_uid="usercontext")
    user_logged_in.connect(_logged_in, dispatch_uid="usercontext")
    user_logged_out.connect(_logged_out, dispatch_uid="usercontext")


def is_answered(error: Exception) -> bool:
    """Return whether Django makes a response of an error, and no 500."""
    return isinstance(error, _ANSWERED)


def ask_at_last(record: RequestRecord) -> None:
    """Ask who makes a request that has failed, also where nobody was found at an earlier time."""
    if record.user is None:
        record.ask_again()
    ask(record)


def source_of(request: HttpRequest) -> dict[str, Any]:
    """Return what a request was made of, where its record stands."""
    for name in ("environ", "scope"):
        source = getattr(request, name, None)
        if isinstance(source, dict):
            return source
    # A request made by hand, in a test: META is what it has.
    meta: dict[str, Any] = request.META
    return meta


def _report(*, request: HttpRequest | None = None, **_extra: Any) -> None:
    """Report an error that Django answers with a 500, while its request is still there."""
    error = sys.exc_info()[1]
    record = current() if request is None else record_in(source_of(request))
    if not isinstance(error, Exception):
        return
    if record is None:
        if request is None:
            return
        # A middleware further out has failed: the error is nobody's, and reported all the same.
        record = RequestRecord.of(source_of(request), default())
    token = in_foreign_thread.set(_is_foreign(record))
    try:
        ask_at_last(record)
        report_unhandled(error, record)
    finally:
        in_foreign_thread.reset(token)


def _is_foreign(record: RequestRecord) -> bool:
    """Return whether Django may be running this in a thread where it makes no queries.

    It is, for an error of its async chain; `process_exception` has asked before, where it could.
    """
    source = record.source
    return source is not None and "asgi" in source and not event_loop.is_running()


def _logged_in(*, request: HttpRequest | None = None, **_extra: Any) -> None:
    """Name who has logged in, where somebody has asked before."""
    record = _record_asking_django(request)
    if record is not None and record.user is not UNKNOWN:
        record.ask_again()
        ask(record)


def _logged_out(*, request: HttpRequest | None = None, **_extra: Any) -> None:
    """Ask again once it is needed: Django says so before it takes the user away."""
    record = _record_asking_django(request)
    if record is not None:
        record.ask_again()


def _record_asking_django(request: HttpRequest | None) -> RequestRecord | None:
    record = None if request is None else record_in(source_of(request))
    if record is not None and record.settings.resolver is request_user:
        return record
    return None
