"""Names the user in sentry-sdk's events, and takes out what the SDK collected unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.collected import (
    Places,
    clean_request,
    cleaned_variables,
    is_unasked,
    record_of,
)
from usercontext.clients.error_texts import hide_spoken
from usercontext.clients.hooks import Chained
from usercontext.clients.sentry_telemetry import is_cookie, theirs
from usercontext.diagnostics import harmless
from usercontext.privacy.secret_names import FILTERED, is_secret
from usercontext.source import environ_key

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord
    from usercontext.types import Event, GetUser

__all__ = ["EventNaming", "clean_attached_stacks"]

#: How the keys of headers begin in an environ.
_IN_ENVIRON = environ_key("")
_PLACES: Final = Places(environ="env")
_SPOKEN: Final = ("exception", "logentry", "message", "breadcrumbs", "extra", "threads")
# Deeper than the SDK writes.
_MAX_DEPTH: Final = 16
_LOST: Final = ("sentry-sdk event", "an event of sentry-sdk went out without its user")


class _Seen:
    """What we know of an event, kept in its hint from one of our hooks to the next.

    Attributes:
        told: the user that the app told the SDK, before integrations added to it.
        record: the record of the event's request.
        runs: how often one of our processors has run on it.
        has_stack: whether it had the stack of a thread then.
    """

    __slots__ = ("has_stack", "record", "runs", "told")

    def __init__(self, event: Event) -> None:
        self.told: dict[str, Any] = dict(event.get("user") or {})
        self.record: RequestRecord | None = None
        self.runs = 0
        self.has_stack = "threads" in event


def _seen(event: Event, hint: dict[str, Any]) -> _Seen:
    seen = hint.get("usercontext")
    if seen is None:
        seen = hint["usercontext"] = _Seen(event)
        if event.get("user"):
            # A copy: integrations would write into the scope's own dict.
            event["user"] = dict(event["user"])
    found: _Seen = seen
    return found


class EventNaming:
    """The event processor that has the last word about the user of an event."""

    def __init__(self, get_user: GetUser, bound: RequestRecord | None, sdk: Any) -> None:
        self._get_user = get_user
        self._bound = bound
        self._sdk = sdk

    def __call__(self, event: Event, hint: dict[str, Any]) -> Event:
        """Replace the event's user, and take out what nobody asked for; it never raises."""
        with harmless(*_LOST):
            error = (hint.get("exc_info") or (None, None))[1]
            seen = _seen(event, hint)
            record = seen.record = record_of(error) or self._bound
            hide_spoken(event, record, error, _SPOKEN)
            if record is None:
                return event
            self._stay_last()
            event.pop("user", None)
            told = theirs(seen.told) if is_unasked(record) else {}
            user = self._get_user(error) or {}
            # Copies: the SDK's dicts are the request's.
            clean_request(event, record, _PLACES)
            _take_unasked(event, record)
            _clean_frames(event, record)
            seen.runs += 1
            if self._is_last(seen.runs):
                scrubber = record.settings.scrubber
                # The user is scrubbed already, and a hash must not be hashed again.
                event, told = scrubber.event(event), scrubber.user(told) or {}
            if told or user:
                event["user"] = {**told, **user}
        return event

    def _stay_last(self) -> None:
        """Run once more behind processors that came later, such as the one of Django's integration.

        The SDK reads the list while it runs it. One without us is not the request's own.
        """
        processors: Any = getattr(self._sdk.get_current_scope(), "_event_processors", ())
        if any(one is self for one in processors) and not isinstance(processors[-1], EventNaming):
            processors.append(self)

    def _is_last(self, runs: int) -> bool:
        """Return whether no other of ours comes after this one: what is hashed is hashed once."""
        scopes = (
            self._sdk.get_global_scope(),
            self._sdk.get_isolation_scope(),
            self._sdk.get_current_scope(),
        )
        lists = [self._sdk.scope.global_event_processors, *(s._event_processors for s in scopes)]
        return bool(runs >= sum(isinstance(one, EventNaming) for each in lists for one in each))


def _take_unasked(event: Event, record: RequestRecord) -> None:
    """Take cookies and the body out, which only options of ours ask for, of our copy."""
    request, asked = event.get("request"), record.settings.request_data
    if not isinstance(request, dict):
        return
    if not asked.include_data:
        request.pop("data", None)
    if not asked.include_cookies:
        request.pop("cookies", None)
        headers = request.get("headers") or {}
        for name in [one for one in headers if is_cookie(str(one))]:
            del headers[name]


class _AttachedStacks(Chained):
    """The hook behind all processors, before the app's.

    There the SDK has attached the stack of where an event without an exception was captured, with
    its local variables: version 3 does so unless told not to.
    """

    def __init__(self, configured: Any) -> None:
        super().__init__(lambda _: None, configured)

    def __call__(self, event: Event, *more: Any) -> Any:
        """Clean the stack, and call the app's own hook."""
        with harmless(*_LOST):
            seen = more[0].get("usercontext") if more else None
            if isinstance(seen, _Seen) and seen.record is not None and not seen.has_stack:
                _clean_stack(event, seen.record)
        return super().__call__(event, *more)


def clean_attached_stacks(client: Any) -> None:
    """Put our hook before that which the SDK's client was initialised with, once."""
    configured = client.options.get("before_send")
    if not isinstance(configured, _AttachedStacks):
        client.options["before_send"] = _AttachedStacks(configured)


def _clean_stack(event: Event, record: RequestRecord) -> None:
    attached = event.get("threads")
    if attached:
        _clean_frames({"threads": attached}, record)
        event.update(record.settings.scrubber.event({"threads": attached}))


def _clean_frames(event: Event, record: RequestRecord) -> None:
    """Hide what is withheld in local variables: the SDK has made texts of them, for this event.

    No other event has these frames, so that they are changed in place.
    """
    with_cookies = record.settings.request_data.include_cookies
    for place in ("exception", "threads"):
        for one in (event.get(place) or {}).get("values") or ():
            for frame in (one.get("stacktrace") or {}).get("frames") or ():
                if frame.get("vars"):
                    cleaned = cleaned_variables(frame["vars"], record)
                    frame["vars"] = _without_credentials(cleaned, with_cookies=with_cookies)


def _without_credentials(value: Any, *, with_cookies: bool, depth: int = 0) -> Any:
    """Return a frame's variables without the cookies and keys in an environ or a scope.

    The headers of a scope are pairs, and the SDK has written their names as `b'cookie'`.
    """
    if depth > _MAX_DEPTH or not isinstance(value, dict | list | tuple):
        return value

    def inside(one: Any) -> Any:
        return _without_credentials(one, with_cookies=with_cookies, depth=depth + 1)

    if isinstance(value, dict):
        return {
            name: FILTERED if _is_credential(name, _IN_ENVIRON, with_cookies) else inside(one)
            for name, one in value.items()
        }
    if len(value) == 2 and _is_credential(value[0], "b'", with_cookies):
        return [value[0], FILTERED]
    return [inside(one) for one in value]


def _is_credential(name: Any, prefix: str, with_cookies: bool) -> bool:
    if not isinstance(name, str) or not name.startswith(prefix):
        return False
    header = name.removeprefix(prefix).rstrip("'").replace("_", "-")
    return is_secret(header) or (is_cookie(header) and not with_cookies)
