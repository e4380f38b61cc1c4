"""Names the user in what sentry-sdk sends: to Sentry, GlitchTip, Bugsink."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

from usercontext.clients.collected import is_unasked
from usercontext.clients.hooks import HookingClient
from usercontext.clients.per_request import PerRequest
from usercontext.clients.sentry_events import EventNaming, clean_attached_stacks
from usercontext.clients.sentry_telemetry import clean_attributes, name_telemetry, theirs
from usercontext.core.record import JobRecord, current, leave
from usercontext.diagnostics import harmless, warn_once
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser
    from usercontext.user import User

__all__ = ["SentrySdkClient"]

# The scopes outside of the request that this context belongs to: set in contexts that a server
# has leaked from one request into the next, too, and there nothing else must be inherited.
_outside: ContextVar[tuple[Any, Any] | None] = ContextVar("usercontext.sentry_sdk", default=None)

# The queues whose integration gives each job an isolation scope, by the name that it gives it.
_ISOLATED = frozenset({"arq", "celery", "huey"})


class SentrySdkClient(HookingClient):
    """Makes ours the user of every event, transaction, log, metric, streamed span and session.

    Inside a request ours is the whole truth: what Sentry's integrations or `set_user` of
    sentry-sdk put there is replaced, and removed where the user is nobody. Where nothing says
    who the user is, without a resolver and without a `set_user` of ours, the user stays that the
    app told the SDK. What the SDK collects by itself is taken out unless options of ours ask for
    it: the framework's user, addresses from headers anyone can write, cookies and bodies. Scrub
    rules have the last word over events. Outside of requests and `isolation_scope`s nothing is
    changed.

    What it cannot do: an address leaves only if sentry-sdk is told so, by
    `data_collection={"user_info": True}`, which is the default from version 3 on, or by
    `send_default_pii=True` before; a warning says so. Logs,
    metrics and streamed spans take a user who was known before they were written, and only with
    that setting. The sessions of requests are counted by the SDK without users.

    Raises:
        MissingDependencyError: sentry-sdk is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        with importing("sentry-sdk", "sentry-sdk", purpose="SentrySdkClient"):
            import sentry_sdk
            from sentry_sdk import scope
            from sentry_sdk.integrations import asgi, wsgi
        self._sdk: Any = sentry_sdk
        self._scope: Any = scope
        # Private, and the only sign that Sentry's middleware is outside of ours.
        self._applied = (
            getattr(asgi, "_asgi_middleware_applied", None),
            getattr(wsgi, "_wsgi_middleware_applied", None),
        )
        self._scopes: PerRequest[tuple[Any, Any]] = PerRequest()

    def hook(self) -> None:
        """Name the user of events from everywhere, `isolation_scope`s and bound threads too."""
        self._scope.add_global_event_processor(EventNaming(self._get_user, None, self._sdk))
        _ignore_integrations(self._scope.Scope)
        self._name_telemetry()

    def check_settings(self, *, includes_ip: bool) -> None:
        """Warn of settings of the SDK that drop the addresses which `include_ip` asks for.

        An SDK that is initialised later is looked at when the first request comes.
        """
        client = self._sdk.get_client()
        if includes_ip and client.is_active() and not _may_send_user(client):
            # From version 3 on events keep theirs.
            dropped_from = "what" if _has_pii_switch(client) else "the logs, metrics and spans that"
            warn_once(
                "sentry-sdk drops addresses",
                "include_ip has no effect on %s sentry-sdk sends: it drops addresses unless "
                "initialised with %s",
                dropped_from,
                _switches(client),
            )

    @contextmanager
    def request_scope(self, get_user: GetUser, /) -> Iterator[None]:
        """Give the request Sentry scopes of its own, and name the user of what they send."""
        record = current()
        self.check_settings(includes_ip=record is not None and record.settings.includes_ip)
        self._name_telemetry()
        here = self._sdk.get_isolation_scope(), self._sdk.get_current_scope()
        outside = _outside.get()
        inherits = outside is None and any(one and one.get(False) for one in self._applied)
        if record is not None and record.source is None:
            # A job: what it does stays a part of the trace that it stands in. What the SDK
            # isolates itself for each job outlives ours, and so does the job's transaction.
            inherits = isinstance(record, JobRecord) and here[0]._name in _ISOLATED
            start = here
        else:
            start = outside or here
        token = _outside.set(outside or here)
        try:
            with nullcontext() if inherits else self._fork(*start):
                self._own_scopes(get_user)
                try:
                    yield
                finally:
                    self._clean_spans()
        finally:
            leave(token, _outside.reset)

    @contextmanager
    def _fork(self, isolation: Any, scope: Any) -> Iterator[None]:
        # Sentry's middleware is absent, or inside, or in a context leaked from another request.
        forked = isolation.fork()
        if forked._session is not None:
            forked._session = _OuterSession(forked._session)
        with self._scope.use_isolation_scope(forked), self._scope.use_scope(scope.fork()):
            yield

    def _own_scopes(self, get_user: GetUser) -> None:
        scopes = self._sdk.get_isolation_scope(), self._sdk.get_current_scope()
        # On both: integrations add their own processors, which blend users, and the ones of the
        # current scope run last.
        processor = EventNaming(get_user, current(), self._sdk)
        for scope in scopes:
            scope.add_event_processor(processor)
        self._scopes.keep(scopes)
        for scope in scopes:
            _replace_user(scope, None)

    def _clean_spans(self) -> None:
        """Clean what was collected since: the span of a middleware outside of ours ends there."""
        with harmless("sentry-sdk span", "a span of sentry-sdk was sent as it was collected"):
            record = current()
            if record is not None:
                user = self._get_user(resolve=False) or {}
                _clean_span(self._sdk.get_current_scope(), record, user.get("ip_address"))

    def _name_telemetry(self) -> None:
        client = self._sdk.get_client()
        if client.is_active():
            clean_attached_stacks(client)
            name_telemetry(client, self._get_user, _may_send_user)

    def is_recording(self) -> bool:
        """Return whether a transaction is sampled, or a log or streamed span will want the user."""
        client = self._sdk.get_client()
        if not client.is_active():
            return False
        span = self._sdk.get_current_scope()._span
        if getattr(span, "sampled", False):
            return True
        # From version 3 on every request could log: there a line names who is known.
        return bool(client.options.get("enable_logs")) and _may_send_user(client)

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of the request's scopes, which logs, spans and sessions take."""
        kept = self._scopes.get()
        if kept is None:
            return
        scopes = [*kept]
        if _outside.get() is not None:
            # Sentry's own middleware, inside of ours, has forked the request's.
            scopes += [self._sdk.get_isolation_scope(), self._sdk.get_current_scope()]
        record = current()
        if record is not None and is_unasked(record):
            # The app's own user stands in an isolation scope, where a current one would hide it.
            _keep_told(scopes[::2], user, record)
            return
        for scope in scopes:
            # A fresh copy each: sentry-sdk writes into what it is given.
            _replace_user(scope, None if user is None else user.to_dict())


def _keep_told(scopes: Any, user: User | None, record: RequestRecord) -> None:
    """Leave the user that the app told the SDK itself in the scopes, with our address or none."""
    fields = {} if user is None else user.to_dict()
    for scope in scopes:
        told = record.settings.scrubber.user(theirs(scope._user or {})) or {}
        _replace_user(scope, {**told, **fields} or None)


def _replace_user(scope: Any, user: dict[str, Any] | None) -> None:
    session = scope._session
    if session is not None:
        # A session only ever adds to what it knows.
        session.did = session.ip_address = None
    scope.set_user(user)
    # Sentry's middleware writes the first X-Forwarded-For here.
    scope.remove_attribute("user.ip_address")
    record = current()
    if record is not None:
        _clean_span(scope, record, None if user is None else user.get("ip_address"))


def _clean_span(scope: Any, record: RequestRecord, address: str | None) -> None:
    """Clean the attributes of the span that a scope's span belongs to, if it has any."""
    span = scope._span
    span = getattr(span, "_segment", span)
    if not hasattr(span, "remove_attribute"):
        return
    attributes = dict(span.get_attributes())
    cleaned = dict(attributes)
    clean_attributes(cleaned, record, address)
    for name in attributes.keys() - cleaned.keys():
        span.remove_attribute(name)
    if "client.address" in cleaned:
        span.set_attribute("client.address", cleaned["client.address"])


class _OuterSession:
    """A session begun outside: it counts what a request reports, and takes nobody's user."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def update(self, *, user: object = None, **changes: Any) -> None:
        """Change anything but who the session's user is."""
        del user
        self._session.update(**changes)


def _ignore_integrations(scope: Any) -> None:
    """Let a request's scopes take no user of the SDK's integrations, which is the framework's.

    They write whoever has logged in, asked or not. The app's own `sentry_sdk.set_user()` passes.
    """
    set_user = scope.set_user
    if getattr(set_user, "ignores_integrations", False):
        return

    @wraps(set_user)
    def unless_integration(self: Any, value: Any) -> None:
        # The scope of a request that is left already is told by our processor on it.
        ours = current() is not None or any(
            isinstance(one, EventNaming) for one in self._event_processors
        )
        if not ours or not _is_integration(sys._getframe(1)):
            set_user(self, value)

    unless_integration.ignores_integrations = True  # type: ignore[attr-defined]
    scope.set_user = unless_integration


def _is_integration(frame: FrameType | None) -> bool:
    """Return whether an integration of the SDK has called, by itself or through the SDK's API."""
    if frame is not None and frame.f_globals.get("__name__") == "sentry_sdk.api":
        frame = frame.f_back
    name = "" if frame is None else frame.f_globals.get("__name__")
    return str(name).startswith("sentry_sdk.integrations.")


def _has_pii_switch(client: Any) -> bool:
    """Return whether the SDK has `send_default_pii`, which version 3 took out."""
    return "send_default_pii" in client.options


def _switches(client: Any) -> str:
    """Return what lets the installed version send addresses."""
    collection = 'data_collection={"user_info": True}'
    if not _has_pii_switch(client):
        return collection
    has_collection = "data_collection" in client.options
    return f"{collection} or send_default_pii=True" if has_collection else "send_default_pii=True"


def _may_send_user(client: Any) -> bool:
    collection = client.options.get("data_collection") or {}
    if collection.get("provided_by_user") or not _has_pii_switch(client):
        return bool(collection.get("user_info"))
    return bool(client.options["send_default_pii"])
