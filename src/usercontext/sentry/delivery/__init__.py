"""Taking events to their server or file: queue, outbox, transport and store."""

from __future__ import annotations

__all__: list[str] = []
