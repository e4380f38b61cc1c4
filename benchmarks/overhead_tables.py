"""Tables of plain text, as `overhead.py` prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Table", "print_table"]

#: What is measured, the figure, the target, and "ok" or "over".
Check = list[str]


@dataclass(slots=True)
class Table:
    """Lines under a header, and the targets that their figures were held against."""

    header: list[str]
    lines: list[list[str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def check(self, what: str, measured: float, target: float, form: str = ",.0f") -> None:
        """Add a target that `measured` must not exceed."""
        verdict = "ok" if measured <= target else "over"
        self.checks.append([what, format(measured, form), f"<= {format(target, form)}", verdict])


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print the lines in columns, numbers to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, ["-" * width for width in widths], *lines]:
        cells = [
            cell.rjust(width) if re.fullmatch(r"[-\d.,]+", cell) else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
    print()
