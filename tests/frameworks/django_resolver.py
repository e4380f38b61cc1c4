"""A resolver that settings name by its dotted path."""

from __future__ import annotations

from typing import Any

__all__ = ["by_header"]


def by_header(request: Any) -> dict[str, str]:
    """Name the user that a header names."""
    return {"id": request.headers["x-user"]}
