"""Measure what each framework's module costs a request that nobody asks for the user.

    python benchmarks/overhead_frameworks.py                    # all of them, some ten minutes
    python benchmarks/overhead_frameworks.py --rows 'wsgi.*'    # or '*.falcon*', '*.pyramid'
    python benchmarks/overhead_frameworks.py --no-instructions  # CPU time alone
    python benchmarks/overhead_frameworks.py --json > figures.json

Each framework serves the same endpoint, called without a server: as it is, with the middleware of
`usercontext.asgi` or `usercontext.wsgi` around it, with its module of `usercontext.frameworks`, and
with sentry-sdk's integration. A module may cost twice what the middleware alone does. A framework
with a server of its own has three times, of the middleware around the trivial ASGI app.
Instructions are counted by callgrind; CPU time is the best of interleaved rounds.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from overhead import Instructions, Progress, Worker
from overhead_framework_apps import FRAMEWORKS, VARIANTS
from overhead_tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

LAYOUTS = 2  # of memory: the least counts
ROUNDS = 25
ROUND_SECONDS = 0.02
LIMIT = 2.0  # times the middleware alone
# What these make of a middleware, a signal or a subclass costs more than what ours does in it.
OWN_SERVERS = {"aiohttp", "sanic", "sanic-asgi", "tornado"}
OWN_LIMIT = 3.0


@dataclass(slots=True)
class Result:
    """What was measured of one framework: a figure for each variant that it has."""

    name: str
    instructions: dict[str, float] = field(default_factory=dict)
    microseconds: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def interface(self) -> str:
        """Return "asgi" or "wsgi"."""
        return self.name.partition(".")[0]

    def added(self, variant: str) -> float | None:
        """Return the instructions of a variant over the bare app."""
        if not {variant, "bare"} <= self.instructions.keys():
            return None
        return self.instructions[variant] - self.instructions["bare"]


def _chosen(pattern: str) -> list[Result]:
    names = [f"{interface}.{name}" for name, _, interface, _ in FRAMEWORKS]
    wanted = {name for name in names if fnmatch.fnmatch(name, pattern)}
    wanted |= {name.partition(".")[0] + ".plain" for name in wanted}
    return [Result(name) for name in names if name in wanted]


def _time(result: Result, progress: Progress) -> None:
    """Time the variants in turn; those that cannot be built say why."""
    workers: dict[str, Worker] = {}
    for variant in VARIANTS:
        progress.say(f"starting {result.name}.{variant}")
        worker = Worker(f"{result.name}.{variant}")
        if "ready" in worker.greeting:
            workers[variant] = worker
        else:
            result.absent[variant] = worker.greeting.get("absent") or worker.greeting["failed"]
    requests = {
        variant: max(20, int(ROUND_SECONDS * 1e9 / worker.ask("time", 50)))
        for variant, worker in workers.items()
    }
    progress.say(f"timing {result.name}")
    for _ in range(ROUNDS):
        for variant, worker in workers.items():
            spent = worker.ask("time", requests[variant]) / 1000
            result.microseconds[variant] = min(spent, result.microseconds.get(variant, spent))
    for worker in workers.values():
        worker.close()


def _count(results: list[Result], progress: Progress) -> None:
    wanted = [(result, variant) for result in results for variant in result.microseconds]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        counter = Instructions(Path(folder))

        def count(one: tuple[Result, str]) -> float | None:
            result, variant = one
            layouts = 1 if variant == "sentry" else LAYOUTS
            return counter.count(f"{result.name}.{variant}", layouts=layouts)

        for done, (one, counted) in enumerate(zip(wanted, pool.map(count, wanted), strict=True), 1):
            progress.say(f"counting instructions, {done} of {len(wanted)}")
            if counted is not None:
                one[0].instructions[one[1]] = counted


def _allowed(result: Result, results: list[Result]) -> float | None:
    """Return the instructions that a module may add: some times those of the middleware alone."""
    plain = next(one for one in results if one.name == f"{result.interface}.plain")
    alone = result.added("middleware") or plain.added("middleware")
    limit = OWN_LIMIT if result.name.partition(".")[2] in OWN_SERVERS else LIMIT
    return None if alone is None else limit * alone


def _verdict(result: Result, results: list[Result]) -> str:
    if any(why for why in result.absent.values() if why[:1].isupper() and "Error: " in why):
        return "failed"
    added, allowed = result.added("module"), _allowed(result, results)
    if added is None or allowed is None:
        return ""
    return "ok" if added <= allowed else "over"


def _print(results: list[Result]) -> None:
    print(f"CPython {platform.python_version()}, {platform.machine()}\n")
    header = ["instructions", "bare", "middleware", "module", "allowed", "", "sentry-sdk"]
    lines = [
        [
            result.name,
            _number(result.instructions.get("bare")),
            *(_number(result.added(variant)) for variant in ("middleware", "module")),
            _number(_allowed(result, results)) if result.added("module") is not None else "-",
            _verdict(result, results),
            _number(result.added("sentry")),
        ]
        for result in results
    ]
    print_table(header, lines)
    header = ["CPU time", "bare us", "x middleware", "x module", "x sentry-sdk", "left out"]
    lines = [
        [
            result.name,
            _number(result.microseconds.get("bare"), ",.1f"),
            *(_ratio(result, variant) for variant in VARIANTS[1:]),
            "; ".join(f"{variant}: {why}" for variant, why in result.absent.items()),
        ]
        for result in results
    ]
    print_table(header, lines)
    print("All but the first column of figures is over the bare app, or its multiple.")
    print("sentry-sdk does more than scope a user: its figures say what a request pays for all.")


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def _ratio(result: Result, variant: str) -> str:
    times = result.microseconds
    return f"{times[variant] / times['bare']:.2f}" if {variant, "bare"} <= times.keys() else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a module costs more than it may."""
    parser = argparse.ArgumentParser(
        prog="overhead_frameworks.py", description="Measure what each framework's module costs."
    )
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="such as 'asgi.falcon*'")
    parser.add_argument("--no-instructions", action="store_true", help="do not run valgrind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)
    results, progress = _chosen(options.rows), Progress()
    if not results:
        parser.error(f"no framework matches {options.rows!r}")
    for result in results:
        _time(result, progress)
    if options.no_instructions or shutil.which("valgrind") is None:
        print("overhead_frameworks.py: instructions are left out", file=sys.stderr)
    else:
        _count(results, progress)
    progress.say("")
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _print(results)
    return 1 if {"over", "failed"} & {_verdict(result, results) for result in results} else 0


if __name__ == "__main__":
    sys.exit(main())
