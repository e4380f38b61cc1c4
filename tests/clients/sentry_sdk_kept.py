"""The real sentry-sdk, initialised with a transport that keeps what it would send."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk import scope as sentry_scope
from sentry_sdk.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["IS_3", "VERSION", "Kept", "initialised", "of_version"]

VERSION = tuple(int(part) for part in sentry_sdk.VERSION.split(".")[:2])
#: Version 3 always logs and streams spans, and has `data_collection` in place of one switch.
IS_3 = VERSION >= (3, 0)

# What a transaction says of its user, by the attributes of the span that is in its place.
_FIELDS = {
    "user.id": "id",
    "user.name": "username",
    "user.email": "email",
    "user.ip_address": "ip_address",
}


class Kept(Transport):
    """Keeps the items of all envelopes by their type."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.items += [(item.type, item.payload.json) for item in envelope.items]

    def of(self, kind: str) -> list[Any]:
        """Return the payloads of one type of item."""
        return [payload for type_, payload in self.items if type_ == kind]

    def users(self, kind: str = "event") -> list[Any]:
        """Return the users of the payloads of one type; version 3 has spans for transactions."""
        if kind == "transaction" and IS_3:
            return [_user_of(one) for one in self.telemetry("span", only_segments=True)]
        return [payload.get("user") for payload in self.of(kind)]

    def telemetry(self, kind: str, *, only_segments: bool = False) -> list[dict[str, Any]]:
        """Return the attributes of each log ("log"), metric ("trace_metric") or "span"."""
        sentry_sdk.flush()
        return [
            {name: value["value"] for name, value in item["attributes"].items()}
            for one in self.of(kind)
            for item in one["items"]
            if item.get("is_segment") or not only_segments
        ]


def _user_of(attributes: dict[str, Any]) -> dict[str, Any] | None:
    found = {field: attributes[name] for name, field in _FIELDS.items() if name in attributes}
    return found or None


def of_version(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the installed version calls options of version 2."""
    if not IS_3:
        return options
    told = {**options}
    for name in ("enable_logs", "trace_lifecycle"):
        told.pop(name, None)
    collects = told.pop("send_default_pii", False)
    return {"data_collection": {"user_info": collects}, **told}


@contextmanager
def initialised() -> Iterator[Callable[..., Kept]]:
    """Hand out what initialises the SDK, and undo that afterwards."""
    processors = list(sentry_scope.global_event_processors)
    client = sentry_sdk.get_global_scope().client

    def initialise(**options: Any) -> Kept:
        options = {"default_integrations": False, "integrations": [], **of_version(options)}
        options["auto_enabling_integrations"] = False
        kept = Kept()
        sentry_sdk.init("https://key@sentry.example/1", transport=kept, **options)
        return kept

    with sentry_sdk.isolation_scope():
        yield initialise
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(client)
    sentry_scope.global_event_processors[:] = processors
