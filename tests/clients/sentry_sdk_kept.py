"""The real sentry-sdk, initialised with a transport that keeps what it would send."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk import scope as sentry_scope
from sentry_sdk.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Kept", "initialised"]


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
        """Return the users of the payloads of one type."""
        return [payload.get("user") for payload in self.of(kind)]

    def telemetry(self, kind: str) -> list[dict[str, Any]]:
        """Return the attributes of each log ("log"), metric ("trace_metric") or "span"."""
        sentry_sdk.flush()
        return [
            {name: value["value"] for name, value in item["attributes"].items()}
            for one in self.of(kind)
            for item in one["items"]
        ]


@contextmanager
def initialised() -> Iterator[Callable[..., Kept]]:
    """Hand out what initialises the SDK, and undo that afterwards."""
    processors = list(sentry_scope.global_event_processors)
    client = sentry_sdk.get_global_scope().client

    def initialise(**options: Any) -> Kept:
        options = {"default_integrations": False, "integrations": [], **options}
        options["auto_enabling_integrations"] = False
        kept = Kept()
        sentry_sdk.init("https://key@sentry.example/1", transport=kept, **options)
        return kept

    with sentry_sdk.isolation_scope():
        yield initialise
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(client)
    sentry_scope.global_event_processors[:] = processors
