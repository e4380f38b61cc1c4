"""Measure what a request costs with usercontext around it, beside floors and peers.

    python benchmarks/overhead.py                      # everything, some 15 minutes
    python benchmarks/overhead.py --rows 'asgi.*'      # some rows, and those they are judged by
    python benchmarks/overhead.py --rows 'asgi.client-*'  # what each reporting client adds
    python benchmarks/overhead.py --no-instructions    # without valgrind
    python benchmarks/overhead.py --json > figures.json

Instructions are counted by `valgrind --tool=callgrind` around the loop alone and hardly differ
from run to run, so targets are judged by them. Times are the best of interleaved rounds and
serve as ratios within one run. The cycle collector is off while counting and timing; what it would
have to free is a column of its own. All columns but the ratios are over the bare app.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import overhead_capture
import overhead_imports
import overhead_worker
from overhead_rows import ROWS, Row
from overhead_tables import Table, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Instructions", "Progress", "Worker", "environment", "main"]

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
COUNTED_REQUESTS = 400
LAYOUTS = 4  # of memory, for the floors and ours
ROUNDS = 25
ROUND_SECONDS = 0.02

SWITCH_SOURCE = """
#include <valgrind/callgrind.h>
void start_counting(void) { CALLGRIND_ZERO_STATS; CALLGRIND_START_INSTRUMENTATION; }
void stop_counting(void) { CALLGRIND_DUMP_STATS; CALLGRIND_STOP_INSTRUMENTATION; }
"""


@dataclass(slots=True)
class Result:
    """What was measured of one row; None stands for what was not."""

    name: str
    what: str
    peer: str = ""
    absent: str = ""
    instructions: float | None = None
    microseconds: float | None = None
    bytes_in_flight: float | None = None
    cyclic_objects: float | None = None
    target: str = ""
    verdict: str = ""
    rounds: list[float] = field(default_factory=list)


def environment() -> dict[str, str]:
    """Return the variables that a measured process runs with."""
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    # A fixed seed and no bytecode written: the same instructions every time.
    return {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path, "USERCONTEXT_DSN": ""}


class Worker:
    """A process that holds one row ready and answers commands about it."""

    def __init__(self, name: str, prefix: Sequence[str] = (), **more: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "overhead.py"), "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if prefix else None,
            text=True,
            env={**environment(), **more},
        )
        self.greeting = self._answer()

    def ask(self, command: str, *arguments: object) -> Any:
        """Send a command, and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end by itself, and wait for that."""
        self._process.communicate(json.dumps(["quit"]) + "\n")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(f"a row's process ended with {self._process.returncode}: {errors}")
        return json.loads(line)


class Instructions:
    """Counts a row's instructions under callgrind.

    With gcc and valgrind's header a tiny library switches the counting on around the loop;
    otherwise two runs of different length are subtracted, which takes longer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.library = self._compile()

    def count(self, name: str, *, layouts: int = 1) -> float | None:
        """Return the instructions of one request, None if they cannot be counted.

        Where objects lie decides which names share a slot of CPython's method cache, and a
        clash there costs a lookup some 200 instructions; so the least of several layouts counts.
        """
        try:
            return min(self._count(name, layout) for layout in range(layouts))
        except RuntimeError as error:
            print(f"overhead.py: {error}", file=sys.stderr)
            return None

    def _count(self, name: str, layout: int) -> float:
        if self.library is not None:
            return self._run(name, COUNTED_REQUESTS, layout) / COUNTED_REQUESTS
        longer = self._run(name, 2 * COUNTED_REQUESTS, layout)
        return (longer - self._run(name, COUNTED_REQUESTS, layout)) / COUNTED_REQUESTS

    def _compile(self) -> str | None:
        source, library = self._folder / "switch.c", self._folder / "switch.so"
        source.write_text(SWITCH_SOURCE)
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return None
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, check=False)
        return str(library) if done.returncode == 0 else None

    def _run(self, name: str, requests: int, layout: int) -> float:
        out = self._folder / f"{name}.{requests}.{layout}.out"
        prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        # `os` makes objects of these before anything of a row is loaded.
        more = {f"OVERHEAD_LAYOUT_{i}": "-" * i for i in range(11 * layout)}
        if self.library is not None:
            prefix.append("--instr-atstart=no")
            more["OVERHEAD_SWITCH"] = self.library
        worker = Worker(name, prefix, **more)
        if "ready" not in worker.greeting:
            worker.close()
            raise RuntimeError(f"{name} cannot be counted: {worker.greeting}")
        worker.ask("count", requests)
        worker.close()
        dumped = out.with_name(f"{out.name}.1")  # what the switch asked for
        text = (dumped if dumped.exists() else out).read_text()
        match = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        if match is None:
            raise RuntimeError(f"callgrind wrote no total for {name}")
        return float(match[1])


class Progress:
    """A line on standard error that says what is being measured, on a terminal only."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Replace the line by `text`."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()


def _chosen(pattern: str) -> list[Row]:
    """Return the rows that match, with the bare app and whatever their targets refer to."""
    by_name = {row.name: row for row in ROWS}
    wanted = {row.name for row in ROWS if fnmatch.fnmatch(row.name, pattern)}
    for _ in range(2):  # a needed row may need another
        wanted |= {needed for name in wanted for needed in by_name[name].needs}
    wanted |= {name.partition(".")[0] + ".bare" for name in wanted}
    wanted |= {"asgi.floor"} if any(name.startswith("asgi.") for name in wanted) else set()
    wanted |= {"wsgi.floor2"} if any(name.startswith("wsgi.") for name in wanted) else set()
    return [row for row in ROWS if row.name in wanted]


def _measure(rows: Iterable[Row], with_instructions: bool, progress: Progress) -> list[Result]:
    results, workers = [], {}
    for row in rows:
        progress.say(f"starting {row.name}")
        result = Result(row.name, row.what, row.peer)
        results.append(result)
        worker = Worker(row.name)
        result.absent = worker.greeting.get("absent", "")
        if "failed" in worker.greeting:
            result.absent = worker.greeting["failed"]
            result.verdict = "" if row.peer else "failed"
        if not result.absent:
            workers[row.name] = worker
    present = [result for result in results if not result.absent]
    _time(present, workers, progress)
    for result in present:
        progress.say(f"memory and cycles of {result.name}")
        result.cyclic_objects = workers[result.name].ask("cycles")
        result.bytes_in_flight = workers[result.name].ask("memory")
        workers[result.name].close()
    if with_instructions:
        _count(present, progress)
    _subtract_bare(present)
    return results


def _time(results: list[Result], workers: dict[str, Worker], progress: Progress) -> None:
    requests = {
        result.name: max(20, int(ROUND_SECONDS * 1e9 / workers[result.name].ask("time", 50)))
        for result in results
    }
    for turn in range(ROUNDS):
        progress.say(f"timing, round {turn + 1} of {ROUNDS}")
        for result in results:
            nanoseconds = workers[result.name].ask("time", requests[result.name])
            result.rounds.append(nanoseconds / 1000)
    for result in results:
        result.microseconds = min(result.rounds)


def _count(results: list[Result], progress: Progress) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool,
    ):
        counter = Instructions(Path(folder))
        counts = pool.map(
            lambda result: counter.count(result.name, layouts=1 if result.peer else LAYOUTS),
            results,
        )
        for done, (result, count) in enumerate(zip(results, counts, strict=True), 1):
            progress.say(f"counting instructions, {done} of {len(results)}")
            result.instructions = count
            if count is None:
                result.verdict = "" if result.peer else "failed"


def _subtract_bare(results: list[Result]) -> None:
    bare = {result.name.partition(".")[0]: result for result in results if "bare" in result.name}
    zero = {name: (r.instructions, r.microseconds, r.bytes_in_flight) for name, r in bare.items()}
    for result in results:
        if result.name.endswith(".bare"):
            continue
        instructions, microseconds, held = zero[result.name.partition(".")[0]]
        if result.instructions is not None and instructions is not None:
            result.instructions -= instructions
        if result.microseconds is not None and microseconds is not None:
            result.microseconds -= microseconds
        if result.bytes_in_flight is not None and held is not None:
            result.bytes_in_flight -= held


def _judge(results: list[Result]) -> None:
    counts = {r.name: r.instructions for r in results if r.instructions is not None}
    for row in ROWS:
        result = next((r for r in results if r.name == row.name), None)
        if result is None or row.limit is None or row.name not in counts:
            continue
        if not counts.keys() >= set(row.needs):
            continue
        text, limit = row.limit(counts)
        result.target = f"{text} = {limit:,.0f}"
        if result.instructions is not None:
            result.verdict = "ok" if result.instructions <= limit else "over"


def _against_sentry(results: list[Result]) -> list[list[str]]:
    counts = {r.name: r.instructions for r in results if r.instructions is not None}
    lines = []
    for interface, factor in (("asgi", 30), ("wsgi", 100)):
        ours, theirs = counts.get(f"{interface}.unread"), counts.get(f"{interface}.sentry-sdk")
        if ours and theirs:
            lines.append(
                [
                    f"{interface}: sentry-sdk with a user / usercontext unread, instructions",
                    f"{theirs / ours:.0f} x",
                    f">= {factor} x",
                    "ok" if theirs / ours >= factor else "over",
                ]
            )
    held = next((r for r in results if r.name == "asgi.unread"), None)
    if held is not None and held.bytes_in_flight is not None:
        verdict = "ok" if held.bytes_in_flight <= 800 else "over"
        lines.append(
            ["asgi: bytes of a request in flight", f"{held.bytes_in_flight:.0f}", "<= 800", verdict]
        )
    ours_rows = [r for r in results if not r.peer and r.cyclic_objects is not None]
    if ours_rows:
        worst = max(r.cyclic_objects or 0 for r in ours_rows)
        verdict = "ok" if worst == 0 else "over"
        lines.append(
            ["reference cycles after a request, every row of ours", f"{worst:g}", "0", verdict]
        )
    return lines


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def _ratio(value: float | None, floor: float | None) -> str:
    return "-" if value is None or not floor else f"{value / floor:.2f}"


def _print_clients(results: list[Result]) -> None:
    """Print what each reporting client adds to a request that reports nothing, or is traced."""
    rows = {row.name: row for row in ROWS}
    counts = {r.name: r.instructions for r in results if r.instructions is not None}
    lines = [
        [r.name, f"{counts[r.name] - counts[over]:,.0f}", over, _version(r.peer).rstrip(",")]
        for r in results
        if (over := rows[r.name].over) in counts and r.name in counts
    ]
    if lines:
        print_table(["reporting client", "instr. added", "over", ""], lines)


def _print_results(results: list[Result]) -> None:
    by_name = {result.name: result for result in results}
    header = ["row", "instr.", "x floor", "best us", "x floor", "bytes", "cyclic", "target", "", ""]
    for interface, floor_name in (("asgi", "asgi.floor"), ("wsgi", "wsgi.floor2")):
        floor = by_name.get(floor_name)
        lines = []
        for result in results:
            if not result.name.startswith(interface):
                continue
            what = " ".join(filter(None, [_version(result.peer), result.what]))
            if result.absent:
                skipped = f"skipped: {result.absent}"
                lines.append([result.name, *"------", skipped, result.verdict, what])
                continue
            bare = result.name.endswith(".bare") or floor is None
            lines.append(
                [
                    result.name,
                    _number(result.instructions),
                    "-" if bare else _ratio(result.instructions, floor.instructions),  # type: ignore[union-attr]
                    _number(result.microseconds, ".2f"),
                    "-" if bare else _ratio(result.microseconds, floor.microseconds),  # type: ignore[union-attr]
                    _number(result.bytes_in_flight),
                    _number(result.cyclic_objects, ".2g"),
                    result.target,
                    result.verdict,
                    what,
                ]
            )
        if lines:
            print_table(header, lines)


def _version(distribution: str) -> str:
    if not distribution:
        return ""
    try:
        return f"{distribution} {metadata.version(distribution)},"
    except metadata.PackageNotFoundError:
        return f"{distribution},"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overhead.py",
        description="Measure what a request costs with usercontext, beside floors and peers.",
    )
    parser.add_argument(
        "--rows",
        default="*",
        metavar="PATTERN",
        help="only rows that match, such as 'asgi.*', 'wsgi.read-*', 'import', 'capture'",
    )
    parser.add_argument("--no-instructions", action="store_true", help="do not run valgrind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _extra(name: str, pattern: str, measure: Callable[[], Any]) -> Any:
    return measure() if fnmatch.fnmatch(name, pattern) else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a target is missed."""
    options = _arguments(argv)
    if options.worker:
        return overhead_worker.main(options.worker)
    counting = not options.no_instructions
    if counting and shutil.which("valgrind") is None:
        print("overhead.py: valgrind is not installed; instructions are left out", file=sys.stderr)
        counting = False
    progress = Progress()
    rows = _chosen(options.rows)
    results = _measure(rows, counting, progress) if rows else []
    _judge(results)
    progress.say("imports and captures" if not rows else "")
    imports = _extra("import", options.rows, partial(overhead_imports.measure, environment()))
    captures = _extra("capture", options.rows, partial(overhead_capture.measure, environment()))
    progress.say("")
    if not rows and imports is None and captures is None:
        print(f"overhead.py: no row matches {options.rows!r}", file=sys.stderr)
        return 2
    checks = _against_sentry(results)
    tables = [table for table in (imports, captures) if table is not None]
    for table in tables:
        checks += table.checks
    if options.json:
        print(json.dumps({"rows": [asdict(r) for r in results], "checks": checks}, indent=2))
    else:
        _print_everything(results, tables, checks)
    verdicts = [result.verdict for result in results] + [check[-1] for check in checks]
    return 1 if {"over", "failed"} & set(verdicts) else 0


def _print_everything(results: list[Result], tables: list[Table], checks: list[list[str]]) -> None:
    print(f"CPython {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores\n")
    _print_results(results)
    _print_clients(results)
    for table in tables:
        print_table(table.header, table.lines)
    if checks:
        print_table(["check", "measured", "target", ""], checks)
    print("sentry-sdk, OpenTelemetry, Elastic, Rollbar and Bugsnag do more than scope a user")
    print("(traces, sessions, breadcrumbs): their rows say what a request pays for all of it.")


if __name__ == "__main__":
    sys.exit(main())
