"""Names the user in what rollbar sends, by a payload handler."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import address_of, cleaned_headers, cleaned_variables, record_of
from usercontext.clients.rehook import put_back_after
from usercontext.core.context import pull_user
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["RollbarClient"]

# The exception whose payload is being built: the handler of payloads is not given it.
_error: ContextVar[BaseException | None] = ContextVar("usercontext.rollbar", default=None)


class RollbarClient(BaseClient):
    """Makes ours the `person` of every item, and our address its `user_ip`.

    Inside a request ours is the whole truth: a `rollbar_person` of the request is replaced, and
    removed where the user is nobody. rollbar's own settings are kept: without
    `capture_username` and `capture_email` those two are not sent, and `capture_ip` decides on
    the address.

    What it cannot do: an item that is built by hand and sent with `rollbar.send_payload()` after
    its request is over names nobody.

    Raises:
        MissingDependencyError: rollbar is not installed.
    """

    def __init__(self) -> None:
        with importing("rollbar", "rollbar", purpose="RollbarClient"):
            import rollbar
            from rollbar.lib import events
        self._rollbar: Any = rollbar
        self._events: Any = events
        self._get_user: GetUser = pull_user

    def setup(self, get_user: GetUser, /) -> None:
        """Add the handlers, behind all others."""
        self._get_user = get_user
        self._add_handlers()
        # `rollbar.init()` forgets all handlers; its integrations call it when the app is loaded.
        put_back_after(self._events, "reset", self._add_handlers)

    def _add_handlers(self) -> None:
        # What is there already is not added twice; without a position rollbar inserts before the
        # last one.
        self._events.add_exception_info_handler(_keep_error, pos=sys.maxsize)
        self._events.add_message_handler(_forget_error, pos=sys.maxsize)
        self._events.add_payload_handler(self._name_person, pos=sys.maxsize)

    def _name_person(self, payload: dict[str, Any], **_: object) -> dict[str, Any]:
        with harmless("rollbar item", "an item of rollbar went out without its user"):
            error = _error.get()
            _error.set(None)
            record = record_of(error)
            if record is None:
                return payload
            data = payload.get("data", payload)
            data.pop("person", None)
            person = self._person(error)
            if person:
                data["person"] = person
            if isinstance(data.get("request"), dict):
                self._clean_request(data["request"], record)
            _clean_frames(data.get("body") or {}, record)
        return payload

    def _person(self, error: BaseException | None) -> dict[str, Any]:
        person = self._get_user(error) or {}
        person.pop("ip_address", None)
        for field in ("username", "email"):
            if not self._rollbar.SETTINGS.get(f"capture_{field}"):
                person.pop(field, None)
        return person

    def _clean_request(self, request: dict[str, Any], record: RequestRecord) -> None:
        """Replace what rollbar took from the first X-Forwarded-For, which anyone can write."""
        request.pop("user_ip", None)
        address = address_of(record)
        if address is not None:
            request["user_ip"] = address
            self._rollbar._filter_ip(request, self._rollbar.SETTINGS.get("capture_ip"))
        if isinstance(request.get("headers"), dict):
            request["headers"] = cleaned_headers(request["headers"], record)


def _clean_frames(body: dict[str, Any], record: RequestRecord) -> None:
    """Have our rules hold for local variables, too: rollbar has made plain values of them."""
    for trace in body.get("trace_chain") or [body.get("trace") or {}]:
        for frame in trace.get("frames") or ():
            if frame.get("locals"):
                kept = cleaned_variables(frame["locals"], record)
                frame["locals"] = _scrubbed(kept, record)


def _scrubbed(variables: dict[str, Any], record: RequestRecord) -> dict[str, Any]:
    """Return variables as the scrub rules leave them, which find them where Sentry has them."""
    event = {"stacktrace": {"frames": [{"vars": variables}]}}
    stacktrace = record.settings.scrubber.event(event).get("stacktrace") or {}
    frames = stacktrace.get("frames") or [{}]
    return frames[0].get("vars") or {}


def _keep_error(exc_info: Any, **_: object) -> Any:
    _error.set(exc_info[1])
    return exc_info


def _forget_error(message: Any, **_: object) -> Any:
    _error.set(None)
    return message
