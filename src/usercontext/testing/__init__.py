"""Testing that reports name the right user, and that a reporting client keeps the contract."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usercontext.testing.acting import acting_as
    from usercontext.testing.conformance import client_conformance
    from usercontext.testing.recording import RecordingClient, reset

__all__ = ["RecordingClient", "acting_as", "client_conformance", "reset"]

# Loaded when asked for: pytest loads this package with its plugin, in every project's tests.
_ROOMS = {
    "RecordingClient": "usercontext.testing.recording",
    "acting_as": "usercontext.testing.acting",
    "client_conformance": "usercontext.testing.conformance",
    "reset": "usercontext.testing.recording",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
