"""The commands about reports: each file has one, its arguments and what it does."""

from __future__ import annotations

__all__: list[str] = []
