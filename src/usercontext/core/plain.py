"""A WSGI request without clients, which is nearly every one, in as few steps as it takes.

The steps of `usercontext.core.lifecycle`, written out: of the 1,300 instructions that a
request may cost over a ContextVar and one small object, a call is 70 to 400. A test holds
that both do the same.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from usercontext.address.client import BEGAN
from usercontext.core.lifecycle import end_now, end_record, fail_or_exit_now
from usercontext.core.record import KEY, UNKNOWN, RequestRecord, enter, leave, reset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usercontext.core.settings import JoinedSettings
    from usercontext.types import Environ, StartResponse, WSGIApp

__all__ = ["PlainWSGI", "look_into_scopes"]

# Whether an environ may hold the scope of a request that a middleware of ours serves already.
_has_scopes = False


def look_into_scopes() -> None:
    """Look for an open record in the ASGI scope, if any, of an environ too.

    Not before there is a middleware of ours over ASGI: it costs a fifth of what a request may.
    """
    global _has_scopes  # noqa: PLW0603 - an attribute would be felt at each request
    _has_scopes = True


class PlainWSGI:
    """Serves the requests of a WSGI app; those that need more are left to the class below it.

    Attributes:
        app: the application to serve.
    """

    app: WSGIApp
    _joined: JoinedSettings

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        settings = self._joined.joined
        # What `RequestRecord.of(environ, settings)` does.
        record = RequestRecord()
        record.source = environ
        record.settings = settings
        record.user = record.address = UNKNOWN
        record.resolution = record.ended = record.state = None
        if environ.setdefault(KEY, record) is not record or (
            _has_scopes and "asgi.scope" in environ
        ):
            outer = self._outer_record(environ, record)
            if outer is not None:
                return self._serve_inside(outer, environ, start_response)
        if not settings.is_plain:
            if settings.includes_ip:
                environ[BEGAN] = settings.begin_environ(environ)
            if not settings.is_bare:
                return self._serve_with_clients(record, environ, start_response)
        token = enter(record)
        app = self.app  # calling an attribute of an instance costs 250 instructions more
        try:
            body = app(environ, start_response)
        except BaseException as error:
            fail_or_exit_now(record, error)
            leave(token)
            end_now(record, None)
            raise
        try:
            reset(token)
        except ValueError:
            leave(token)
        if type(body) is not list and type(body) is not tuple:
            return self._until_closed(body, record, environ)
        # The checker takes both for what they were set to above, but the app has run since then.
        if record.state is not None or record.settings.keeps:  # type: ignore[redundant-expr]
            end_record(record)
        else:
            record.ended = 0.0 if record.user is UNKNOWN else monotonic()  # type: ignore[redundant-expr]
            record.source = None
        return body

    if TYPE_CHECKING:  # what the class below it supplies

        def _outer_record(
            self, environ: Environ, record: RequestRecord
        ) -> RequestRecord | None: ...

        def _serve_inside(
            self, record: RequestRecord, environ: Environ, start_response: StartResponse
        ) -> Iterable[bytes]: ...

        def _serve_with_clients(
            self, record: RequestRecord, environ: Environ, start_response: StartResponse
        ) -> Iterable[bytes]: ...

        def _until_closed(
            self, body: Iterable[bytes], record: RequestRecord, environ: Environ
        ) -> Iterable[Any]: ...
