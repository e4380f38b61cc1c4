"""Marks what a thread does for us.

What is logged or raised while a report is built or sent is ours: reporting it would never end.
"""

from __future__ import annotations

import threading

__all__ = ["in_own_work", "own_work"]


class _OwnWork(threading.local):
    """Marks what a thread does in a `with` block as ours; a class, as each capture enters it."""

    depth: int = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self.depth -= 1


own_work: _OwnWork = _OwnWork()


def in_own_work() -> bool:
    """Return whether this thread is building or sending a report right now."""
    return own_work.depth > 0
