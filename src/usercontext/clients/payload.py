"""Clients of libraries that let us change what they send, where it is put together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.collected import Places, clean_request, record_of
from usercontext.clients.error_texts import hide_spoken
from usercontext.clients.hooks import HookingClient
from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord

__all__ = ["PayloadClient"]


class PayloadClient(HookingClient):
    """Names the user in every payload that `fill()` is given, and cleans what it collected.

    Attributes:
        lost: cause and message for the log, should that fail.
        places: where in a payload the request stands that the library collected.
        spoken: the keys of a payload under which errors, messages and variables stand.
    """

    lost: ClassVar[tuple[str, str]]
    places: ClassVar[Places] = Places()
    spoken: ClassVar[tuple[str, ...]] = ()

    def error_of(self, payload: Any) -> Any:  # noqa: ARG002
        """Return the exception that a payload reports; by default the one being handled."""
        return sys.exc_info()[1]

    def write(self, payload: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of a payload; None is nobody."""

    def clean(self, payload: Any, record: RequestRecord) -> None:
        """Replace the addresses that the library has collected of the request, or remove them."""
        clean_request(payload, record, self.places)

    def hide(self, payload: Any, record: RequestRecord | None, error: object) -> None:
        """Replace what texts of errors must not tell; outside of requests as well."""
        hide_spoken(payload, record, error, self.spoken)

    def fill(self, payload: Any, **_: object) -> Any:
        """Name the user of the request that a payload belongs to; return the payload."""
        error, record = None, None
        with harmless(*self.lost):
            error = self.error_of(payload)
            record = record_of(error)
            if record is not None:
                self.write(payload, self._get_user(error))
                self.clean(payload, record)
        with harmless(*self.lost):
            self.hide(payload, record, error)
        return payload
