"""What commands print: plain in a pipe, in colours on a terminal, never commanded by a report."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["Paint", "local_time", "progress"]

_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36}


class Paint:
    """Gives texts their colours, where a stream shows them.

    Args:
        stream: where the texts go; by default stdout.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        is_terminal = (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
        self.is_terminal: bool = is_terminal
        self._shows = is_terminal and not os.environ.get("NO_COLOR")

    def __call__(self, text: str, *names: str) -> str:
        """Return a text in the colours of these names."""
        if not self._shows or not text:
            return text
        codes = ";".join(str(_CODES[name]) for name in names)
        return f"\x1b[{codes}m{text}\x1b[0m"


def progress(text: str) -> None:
    """Show how far something has come, in the place of what was shown before; empty for its end."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def local_time(timestamp: float | None) -> str:
    """Return a moment as this machine's clock shows it."""
    if timestamp is None:
        return "-"
    return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
