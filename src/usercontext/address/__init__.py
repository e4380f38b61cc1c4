"""The client's address: how it is spelled, found behind proxies, hidden and anonymised."""

from __future__ import annotations

__all__: list[str] = []
