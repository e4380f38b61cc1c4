"""Names the user in what rollbar sends, by a payload handler."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.collected import address_of, cleaned_variables
from usercontext.clients.hooks import put_back_after
from usercontext.clients.payload import PayloadClient
from usercontext.optional import importing

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord

__all__ = ["RollbarClient"]

# The exception whose payload is being built: the handler of payloads is not given it.
_error: ContextVar[BaseException | None] = ContextVar("usercontext.rollbar", default=None)


class RollbarClient(PayloadClient):
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

    lost: ClassVar[tuple[str, str]] = (
        "rollbar item",
        "an item of rollbar went out without its user",
    )

    spoken: ClassVar[tuple[str, ...]] = ("body", "title")

    def __init__(self) -> None:
        super().__init__()
        with importing("rollbar", "rollbar", purpose="RollbarClient"):
            import rollbar
            from rollbar.lib import events
        self._rollbar: Any = rollbar
        self._events: Any = events

    def hook(self) -> None:
        """Add the handlers, behind all others."""
        self._add_handlers()
        # `rollbar.init()` forgets all handlers; its integrations call it when the app is loaded.
        put_back_after(self._events, "reset", self._add_handlers)

    def _add_handlers(self) -> None:
        # What is there already is not added twice; without a position rollbar inserts before the
        # last one.
        self._events.add_exception_info_handler(_keep_error, pos=sys.maxsize)
        self._events.add_message_handler(_forget_error, pos=sys.maxsize)
        self._events.add_payload_handler(self.fill, pos=sys.maxsize)

    def error_of(self, payload: dict[str, Any]) -> object:
        """Return the exception that the payload was built of, once."""
        del payload
        error = _error.get()
        _error.set(None)
        return error

    def write(self, payload: dict[str, Any], user: dict[str, Any] | None) -> None:
        """Replace the person, by rollbar's own settings of what may be captured."""
        data, person = _data(payload), user or {}
        hidden = {n for n in ("username", "email") if not self._setting(f"capture_{n}")}
        for name in hidden | {"ip_address"}:
            person.pop(name, None)
        data.pop("person", None)
        if person:
            data["person"] = person

    def hide(self, payload: dict[str, Any], record: RequestRecord | None, error: object) -> None:
        """Replace what texts of errors must not tell."""
        super().hide(_data(payload), record, error)

    def _setting(self, name: str) -> Any:
        return self._rollbar.SETTINGS.get(name)

    def clean(self, payload: dict[str, Any], record: RequestRecord) -> None:
        """Replace what rollbar took from the first X-Forwarded-For, which anyone can write."""
        data = _data(payload)
        super().clean(data, record)
        request, address = data.get("request"), address_of(record)
        if isinstance(request, dict):
            request.pop("user_ip", None)
            if address is not None:
                request["user_ip"] = address
                self._rollbar._filter_ip(request, self._setting("capture_ip"))
        _clean_frames(data.get("body") or {}, record)


def _data(payload: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = payload.get("data", payload)
    return data


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
