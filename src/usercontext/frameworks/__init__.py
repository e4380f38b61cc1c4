"""What frameworks need beyond the middlewares: one file each, imported by name."""

from __future__ import annotations

__all__: list[str] = []
