"""Names the user in what sentry-sdk sends: to Sentry, GlitchTip, Bugsink."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import (
    cleaned_environ,
    cleaned_headers,
    record_of,
    withheld_headers,
)
from usercontext.clients.per_request import PerRequest
from usercontext.diagnostics import harmless, warn_once
from usercontext.exceptions import MissingDependencyError
from usercontext.record import current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.record import RequestRecord
    from usercontext.types import Event, GetUser
    from usercontext.user import User

__all__ = ["SentrySdkClient"]

# The scopes outside of the request that this context belongs to: set in contexts that a server
# has leaked from one request into the next, too, and there nothing else must be inherited.
_outside: ContextVar[tuple[Any, Any] | None] = ContextVar("usercontext.sentry_sdk", default=None)


class SentrySdkClient(BaseClient):
    """Makes ours the user of every event, transaction, log, metric and streamed span.

    Inside a request ours is the whole truth: what Sentry's integrations or `set_user` of
    sentry-sdk put there is replaced, and removed where the user is nobody. So are the addresses
    that the SDK took from headers anyone can write. Scrub rules have the last word over events.
    Outside of requests and `isolation_scope`s nothing is changed.

    What it cannot do: an address leaves only if sentry-sdk is told so, by
    `data_collection={"user_info": True}` or `send_default_pii=True`; a warning says so. Logs,
    metrics and streamed spans take a user who was known before they were written, and only with
    that setting.

    Raises:
        MissingDependencyError: sentry-sdk is not installed.
    """

    def __init__(self) -> None:
        try:
            import sentry_sdk
            from sentry_sdk import scope
            from sentry_sdk.integrations import asgi, wsgi
        except ImportError:
            raise MissingDependencyError(
                "sentry-sdk", "sentry-sdk", purpose="SentrySdkClient"
            ) from None
        self._sdk: Any = sentry_sdk
        self._scope: Any = scope
        # Private, and the only sign that Sentry's middleware is outside of ours.
        self._applied = (
            getattr(asgi, "_asgi_middleware_applied", None),
            getattr(wsgi, "_wsgi_middleware_applied", None),
        )
        self._scopes: PerRequest[tuple[Any, Any]] = PerRequest()

    def setup(self, get_user: GetUser, /) -> None:
        """Name the user of events from everywhere, `isolation_scope`s and bound threads too."""
        naming = _Naming(get_user, None, self._sdk.get_current_scope)
        self._scope.add_global_event_processor(naming)

    @contextmanager
    def request_scope(self, get_user: GetUser, /) -> Iterator[None]:
        """Give the request Sentry scopes of its own, and name the user of what they send."""
        self._warn_of_lost_address()
        outside = _outside.get()
        inherits = outside is None and any(one and one.get(False) for one in self._applied)
        if outside is None:
            outside = self._sdk.get_isolation_scope(), self._sdk.get_current_scope()
        token = _outside.set(outside)
        try:
            with nullcontext() if inherits else self._fork(*outside):
                self._own_scopes(get_user)
                yield
        finally:
            _leave(token)

    @contextmanager
    def _fork(self, isolation: Any, scope: Any) -> Iterator[None]:
        # Sentry's middleware is absent, or inside, or in a context leaked from another request.
        with (
            self._scope.use_isolation_scope(isolation.fork()),
            self._scope.use_scope(scope.fork()),
        ):
            yield

    def _own_scopes(self, get_user: GetUser) -> None:
        scopes = self._sdk.get_isolation_scope(), self._sdk.get_current_scope()
        # On both: integrations add their own processors, which blend users, and those of the
        # current scope run last.
        processor = _Naming(get_user, current(), self._sdk.get_current_scope)
        for scope in scopes:
            scope.add_event_processor(processor)
        self._scopes.keep(scopes)
        self._replace(scopes, None)

    def _warn_of_lost_address(self) -> None:
        record = current()
        client = self._sdk.get_client()
        if record is None or not record.context.includes_ip or _may_send_user(client):
            return
        if client.is_active():
            warn_once(
                "sentry-sdk drops addresses",
                "include_ip has no effect on what sentry-sdk sends: it drops addresses unless "
                'initialised with data_collection={"user_info": True} or send_default_pii=True',
            )

    def is_recording(self) -> bool:
        """Return whether a transaction is sampled, or a log or streamed span will want the user."""
        client = self._sdk.get_client()
        if not client.is_active():
            return False
        span = self._sdk.get_current_scope()._span
        if getattr(span, "sampled", False):
            return True
        options = client.options
        return bool(options.get("enable_logs")) and _may_send_user(client)

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of the request's scopes, which logs, spans and sessions take."""
        kept = self._scopes.get()
        if kept is None:
            return
        scopes = [*kept]
        if _outside.get() is not None:
            # Sentry's own middleware, inside of ours, has forked those of the request.
            scopes += [self._sdk.get_isolation_scope(), self._sdk.get_current_scope()]
        self._replace(scopes, user)

    def _replace(self, scopes: Any, user: User | None) -> None:
        address = None if user is None else user.ip_address
        for scope in scopes:
            # A fresh copy each: sentry-sdk writes into what it is given.
            scope.set_user(None if user is None else user.to_dict())
            # Sentry's middleware writes the first X-Forwarded-For here.
            scope.remove_attribute("user.ip_address")
            span = scope._span
            if hasattr(span, "remove_attribute"):
                _replace_span_address(getattr(span, "_segment", span), address)


def _replace_span_address(span: Any, address: str | None) -> None:
    record = current()
    withheld = set() if record is None else withheld_headers(record)
    for name in list(span.get_attributes()):
        # "http.request.header.x_real_ip", or with hyphens
        header = name.removeprefix("http.request.header.").replace("_", "-")
        tells_unasked = header != name and header in withheld
        if tells_unasked or (name == "client.address" and address is None):
            span.remove_attribute(name)
        elif name == "client.address":
            span.set_attribute(name, address)


def _leave(token: Any) -> None:
    try:
        _outside.reset(token)
    except ValueError:
        # Closed in another thread than it was begun in; the mark there only isolates more.
        return


def _may_send_user(client: Any) -> bool:
    collection = client.options.get("data_collection") or {}
    if collection.get("provided_by_user"):
        return bool(collection.get("user_info"))
    return bool(client.should_send_default_pii())


class _Naming:
    """The event processor that has the last word about the user of an event."""

    def __init__(self, get_user: GetUser, bound: RequestRecord | None, find_scope: Any) -> None:
        self._get_user = get_user
        self._bound = bound
        self._find_scope = find_scope

    def __call__(self, event: Event, hint: dict[str, Any]) -> Event:
        with harmless("sentry-sdk event", "an event of sentry-sdk went out without its user"):
            error = (hint.get("exc_info") or (None, None))[1]
            record = record_of(error) or self._bound
            if record is None:
                return event
            self._stay_last()
            user = self._get_user(error)
            event.pop("user", None)
            _replace_addresses(event, record)
            # The user is scrubbed already, and a hash must not be hashed again.
            event = record.context.scrubber.event(event)
            if user is not None:
                event["user"] = user
        return event

    def _stay_last(self) -> None:
        """Run once more behind processors that came later, such as that of Django's integration.

        The SDK reads the list while it runs it. One without us is not the request's own.
        """
        scope = self._find_scope()
        processors: Any = getattr(scope, "_event_processors", ())
        if any(one is self for one in processors) and processors[-1] is not self:
            scope.add_event_processor(self)


def _replace_addresses(event: Event, record: RequestRecord) -> None:
    """Replace the address that the SDK found by ours, on copies: its dicts are the request's."""
    request = event.get("request")
    if not isinstance(request, dict):
        return
    event["request"] = request = dict(request)
    if isinstance(request.get("env"), dict):
        request["env"] = cleaned_environ(request["env"], record)
    if isinstance(request.get("headers"), dict):
        request["headers"] = cleaned_headers(request["headers"], record)
