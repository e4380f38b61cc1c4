"""The middleware for `MIDDLEWARE`: Django's own request for the resolver, and its swallowed errors.

Around the application `usercontext.wsgi` or `usercontext.asgi` isolate requests, and this one
shares their record. Alone it makes the record itself, and ends it with the response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers.base import BaseHandler

from usercontext.core.context import configure, configure_joined, join, keep_peer
from usercontext.core.lifecycle import (
    begin,
    complete,
    complete_now,
    inside,
    resolve_early,
    resolve_early_now,
    started,
    started_now,
)
from usercontext.core.record import RequestRecord, key_in
from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import open_record_in, record_in
from usercontext.frameworks.django import checks, signals
from usercontext.frameworks.django.bodies import end_part, end_with
from usercontext.frameworks.django.configuration import read_options
from usercontext.frameworks.django.users import request_user

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from usercontext.core.settings import Settings

__all__ = ["UserContextMiddleware"]


class UserContextMiddleware:
    """Give every request of Django a user, and report its unhandled errors; for `MIDDLEWARE`.

    It stands first in `MIDDLEWARE`, alone or inside the middleware that wraps the application,
    whose record it shares. It serves sync and async chains alike, without changing threads.

    The setting `USERCONTEXT` is a dict of `ContextOptions`; the resolver, called with Django's
    `HttpRequest`, may be a dotted path. Without one, `request_user` names the user, unless the
    wrapping middleware or `init()` has a resolver.

    Raises:
        ConfigurationError: an option is wrong; the message names its key and the fix.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        if isinstance(get_response, BaseHandler):
            raise ConfigurationError(
                "usercontext.frameworks.django.UserContextMiddleware belongs in MIDDLEWARE: around "
                "the application write the one of usercontext.wsgi, or of usercontext.asgi"
            )
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        options = read_options()
        self._own = configure(make_request=_no_request, **options)
        self._ready = self._own
        if self._own.resolver is None:
            options["resolver"] = request_user
            self._ready = configure(make_request=_no_request, **options)
        self._joined = configure_joined(self._own)
        self._ready_joined = configure_joined(self._ready)
        self._is_compared = False
        signals.connect()
        checks.warn_unchecked()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve one request."""
        source = signals.source_of(request)
        record = open_record_in(source)
        is_ours = record is None
        if record is None:
            source[key_in(source)] = record = RequestRecord.of(source, self._settings())
            if record.settings.includes_ip:
                keep_peer(record.settings, source)
        else:
            self._join(record, source)
        if record.settings.make_request is _no_request:
            record.make_state().request = request
        # A middleware further out has isolated its own clients, and hands them the user.
        begins = not record.settings.is_bare if is_ours else bool(self._own.clients)
        serve = self._serve_async if self._is_async else self._serve
        return serve(request, record, is_ours=is_ours, begins=begins)

    def process_exception(self, request: HttpRequest, error: Exception) -> None:
        """Find the user of an error that no other middleware handles, where Django may query.

        In an async chain Django announces the error from a thread of a pool: a query there
        would open a connection that nobody closes.
        """
        record = record_in(signals.source_of(request))
        if record is not None and not signals.is_answered(error):
            signals.ask_at_last(record)

    def _settings(self) -> Settings:
        settings = self._joined.joined
        return self._ready_joined.joined if settings.resolver is None else settings

    def _join(self, record: RequestRecord, source: dict[str, Any]) -> None:
        own = self._ready if record.settings.resolver is None else self._own
        if not self._is_compared:
            self._is_compared = True
            _warn_of_differences(own, record.settings)
        join(own, record, source)

    def _serve(
        self, request: HttpRequest, record: RequestRecord, *, is_ours: bool, begins: bool
    ) -> HttpResponseBase:
        with inside(record):
            scopes = begin(record) if begins else None
            try:
                if record.settings.eager:
                    resolve_early_now(record)
                response: HttpResponseBase = self.get_response(request)
                if begins:
                    started_now(record)
                complete_now(record)
            except BaseException:
                end_part(record, scopes, is_ours=is_ours)
                raise
        end_with(response, record, scopes, is_ours=is_ours)
        return response

    async def _serve_async(
        self, request: HttpRequest, record: RequestRecord, *, is_ours: bool, begins: bool
    ) -> HttpResponseBase:
        with inside(record):
            scopes = begin(record) if begins else None
            try:
                if record.settings.eager:
                    await resolve_early(record)
                response: HttpResponseBase = await self.get_response(request)
                if begins:
                    await started(record)
                await complete(record)
            except BaseException:
                end_part(record, scopes, is_ours=is_ours)
                raise
        end_with(response, record, scopes, is_ours=is_ours)
        return response


def _no_request(source: object) -> None:
    """Make nothing: the resolver gets the HttpRequest that the record holds."""


def _warn_of_differences(own: Settings, outer: Settings) -> None:
    names = own.conflicts_with(outer)
    if names:
        warn_once(
            "USERCONTEXT differs",
            "settings.USERCONTEXT and the middleware around the application both have %s, and not "
            "the same: inside Django the setting's applies. Leave it out in one of the two places",
            ", ".join(names),
        )
