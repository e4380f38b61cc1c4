"""The request's record, its life, and the configured pipeline that reports its user."""

from __future__ import annotations

__all__: list[str] = []
