"""Django: the request's own user, and the errors that Django turns into responses itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.signals import got_request_exception
from django.utils.module_loading import import_string

from usercontext import event_loop, resolution
from usercontext.capture import report_unhandled
from usercontext.context import UserContext, default
from usercontext.record import KEY, UNKNOWN, RequestRecord, current, enter, leave

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

__all__ = ["UserContextMiddleware", "request_user"]


def request_user(request: HttpRequest) -> object:
    """Return who Django says makes a request, as far as that is known here: a ready resolver.

    What `await request.auser()` and `request.user` have found already is looked at first;
    `request.user` itself is read in sync code only, since in async code it raises
    SynchronousOnlyOperation. Where neither is possible the question stays open.
    """
    found = vars(request)
    for name in ("_acached_user", "_cached_user"):
        if name in found:
            return found[name]
    if event_loop.is_running():
        return UNKNOWN
    return getattr(request, "user", None)


class UserContextMiddleware:
    """Report Django's unhandled errors with the user of their request; for `MIDDLEWARE`.

    It stands first in `MIDDLEWARE`, alone or inside the middleware that wraps the application,
    whose record it shares. It serves sync and async chains alike.

    The setting `USERCONTEXT` is a dict of `ContextOptions`; the resolver, called with Django's
    `HttpRequest`, may be a dotted path. Without one, `request_user` names the user, unless the
    wrapping middleware has a resolver.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        options = _options()
        self._own = UserContext(make_request=_no_request, **options)
        self._ready = self._own
        if options.get("resolver") is None:
            options["resolver"] = request_user
            self._ready = UserContext(make_request=_no_request, **options)
        got_request_exception.connect(_report, dispatch_uid="usercontext")

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve one request."""
        record, is_ours = self._record_of(request)
        if self._is_async:
            return self._serve_async(request, record, is_ours=is_ours)
        return self._serve(request, record, is_ours=is_ours)

    def _record_of(self, request: HttpRequest) -> tuple[RequestRecord, bool]:
        """Return the record of the request, and whether it was made here."""
        source: Any = _source_of(request)
        record = source.get(KEY)
        is_ours = not isinstance(record, RequestRecord) or record.ended is not None
        outer = default() if is_ours else record.context
        own = self._own if outer.resolver is not None else self._ready
        if is_ours:
            record = source[KEY] = RequestRecord(source, own.over(default()))
        else:
            own.join(record, source)
        if own.resolver is not None:
            record.more().request = request
        return record, is_ours

    def _serve(
        self, request: HttpRequest, record: RequestRecord, *, is_ours: bool
    ) -> HttpResponseBase:
        token = enter(record)
        try:
            response: HttpResponseBase = self.get_response(request)
        finally:
            leave(token)
        if is_ours:
            _close_with(response, record)
        return response

    async def _serve_async(
        self, request: HttpRequest, record: RequestRecord, *, is_ours: bool
    ) -> HttpResponseBase:
        token = enter(record)
        try:
            response: HttpResponseBase = await self.get_response(request)
            if is_ours and record.extras is not None and record.extras.pending:
                await resolution.ask_within(record)
        finally:
            leave(token)
        if is_ours:
            _close_with(response, record)
        return response


def _options() -> dict[str, Any]:
    options = dict(getattr(settings, "USERCONTEXT", {}))
    if isinstance(options.get("resolver"), str):
        options["resolver"] = import_string(options["resolver"])
    return options


def _source_of(request: HttpRequest) -> dict[str, Any]:
    for name in ("environ", "scope"):
        source = getattr(request, name, None)
        if isinstance(source, dict):
            return source
    # A request made by hand, in a test: META is what it has.
    meta: dict[str, Any] = request.META
    return meta


def _no_request(source: object) -> None:
    """Make nothing: the resolver gets the HttpRequest that the record holds."""


def _report(*, request: HttpRequest | None = None, **_extra: Any) -> None:
    """Report an error that Django answers with a 500, while its request is still there."""
    error = sys.exc_info()[1]
    record = current() if request is None else _source_of(request).get(KEY)
    if not isinstance(error, Exception) or not isinstance(record, RequestRecord):
        return
    resolution.ask(record)
    report_unhandled(error, record)


def _close_with(response: Any, record: RequestRecord) -> None:
    """End the request now, or once the streamed body has."""
    if not response.streaming:
        record.close()
    elif response.is_async:
        response.streaming_content = _stream_async(response.streaming_content, record)
    else:
        response.streaming_content = _stream(response.streaming_content, record)


def _stream(content: Iterator[bytes], record: RequestRecord) -> Iterator[bytes]:
    try:
        while True:
            # A token held across a yield would leak into whoever iterates next.
            token = enter(record)
            try:
                chunk = next(content)
            except StopIteration:
                return
            finally:
                leave(token)
            yield chunk
    finally:
        record.close()


async def _stream_async(
    content: AsyncIterator[bytes], record: RequestRecord
) -> AsyncIterator[bytes]:
    try:
        while True:
            token = enter(record)
            try:
                chunk = await anext(content)
            except StopAsyncIteration:
                return
            finally:
                leave(token)
            yield chunk
    finally:
        record.close()
