"""The queues' table in `docs/support.md`, written from what pytest says of the last runs.

    tox run -e jobs,jobs-oldest,jobs-arq,jobs-arq-oldest,jobs-django     # real workers of all
    python -m tests.jobs.table                                           # writes the table

Each run leaves a file in `.matrix/jobs`. The table has a row for each queue, version and kind of
worker, and a column for each scenario.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tests.jobs.scenarios import PAIRS, QUEUES, SCENARIOS
from tests.servers.results import kind_of, said
from tests.servers.support import Notes, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PAGE", "Cell", "Row", "rows_of", "table"]

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".matrix" / "jobs"
PAGE = ROOT / "docs" / "support.md"
RUNS = "tox run -e jobs,jobs-oldest,jobs-arq,jobs-arq-oldest,jobs-django"


@dataclass
class Cell:
    """What came of one scenario on one kind of worker.

    Attributes:
        kinds: how many tests ended in which way: `passed`, `leak`, `lost`, `stale`, `failed`.
        skipped: why tests were left out.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)

    def add(self, case: ElementTree.Element) -> None:
        """Count one test."""
        skipped = case.find("skipped")
        broken = [*case.findall("failure"), *case.findall("error")]
        if broken:
            self.kinds[kind_of(broken[0].get("message", ""))] += 1
        elif skipped is None:
            self.kinds["passed"] += 1
        elif skipped.get("message", "") not in self.skipped:
            self.skipped.append(skipped.get("message", ""))


@dataclass
class Row:
    """One kind of worker of one version of a queue, and what came of each scenario."""

    queue: str
    version: str
    kind: str
    cells: dict[str, Cell] = field(default_factory=dict)

    def place(self) -> tuple[object, ...]:
        """Return what rows are sorted by: as they are listed, the newest version first."""
        numbers = [-int(part) for part in self.version.split(".") if part.isdecimal()]
        return list(QUEUES).index(self.queue), numbers, PAIRS.index((self.queue, self.kind))

    def texts(self, notes: Notes) -> list[str]:
        """Return the row's cells."""
        said_of = [self._said(name, notes) for name in SCENARIOS]
        return [self.queue, self.version, self.kind, *said_of]

    def _said(self, scenario: str, notes: Notes) -> str:
        cell, queue = self.cells.get(scenario, Cell()), QUEUES[self.queue]
        if cell.kinds:
            note = queue.notes.get(scenario)
            return (said(cell.kinds) or "ok") + notes.mark([note] if note else [])
        reason = queue.reason(self.kind, scenario)
        left_out = [reason] if reason else cell.skipped
        return ("cannot" if left_out else "not run") + notes.mark(left_out)


def rows_of(paths: Iterable[Path]) -> list[Row]:
    """Return what the files of pytest say, sorted."""
    rows: dict[str, Row] = {}
    for path in paths:
        for worker, scenario, case in _shown(path):
            row = rows.setdefault(worker, Row(*worker.split(" ", 2)))
            row.cells.setdefault(scenario, Cell()).add(case)
    return sorted(rows.values(), key=Row.place)


def _shown(path: Path) -> Iterator[tuple[str, str, ElementTree.Element]]:
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        found = [(one.get("name"), one.get("value", "")) for one in case.iter("property")]
        worker = next((value for name, value in found if name == "worker"), None)
        scenarios = [value for name, value in found if name == "scenario"]
        if worker is not None:
            yield from ((worker, scenario, case) for scenario in scenarios)


def table(rows: list[Row], date: str) -> str:
    """Return the part of the page."""
    notes = Notes("q")
    head = ["queue", "version", "worker", *SCENARIOS]
    lines = [head, ["---"] * len(head), *(row.texts(notes) for row in rows)]
    shown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    run = f"Last run: {date}, {_counted(rows)}"
    columns = [f"- `{name}`: {fact}" for name, fact in SCENARIOS.items()]
    parts = [run, shown, "\n".join(notes.lines()), "The columns:", "\n".join(columns)]
    return "\n\n".join(parts) + "\n"


def _counted(rows: list[Row]) -> str:
    total = sum((cell.kinds for row in rows for cell in row.cells.values()), Counter[str]())
    wrong = {"leak": "leaks", "lost": "lost", "stale": "stale", "failed": "failed"}
    counted = ", ".join(f"{total[kind]} {word}" for kind, word in wrong.items())
    return f"{len(rows)} workers, {total.total()} runs of a scenario: {counted}."


def main() -> int:
    """Write the table; return 1 if anything in it has failed."""
    paths = sorted(KEPT.glob("*.xml"))
    if not paths:
        raise SystemExit(f"nothing was run yet: {RUNS}")
    rows = rows_of(paths)
    date = time.strftime("%Y-%m-%d", time.localtime(max(path.stat().st_mtime for path in paths)))
    PAGE.write_text(replaced(PAGE.read_text(), "jobs", table(rows, date)))
    print(_counted(rows))
    return int(any(cell.kinds.keys() - {"passed"} for row in rows for cell in row.cells.values()))


if __name__ == "__main__":
    sys.exit(main())
