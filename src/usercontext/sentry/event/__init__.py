"""Events of the Sentry protocol: what one says of an exception, a message and its frames."""

from __future__ import annotations

__all__: list[str] = []
