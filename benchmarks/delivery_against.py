"""What delivering a report costs, as a ratio to another build of this package.

    python benchmarks/delivery_against.py [commit [rounds]]

The commit's source is taken from this repository's history. Every figure comes from a process of
its own, and the builds take turns, so that a busy machine slows both; the best of all rounds count.
CPU is the process's, the capturing included; a local server in another process takes everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delivery import fail, serving

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
BASE = "5612666"
ROUNDS = 5
EVENTS = 2000
#: The greatest ratio of CPU, and the least of events a second, by the way.
TARGETS = {"memory": (0.40, 3.0), "outbox": (0.35, 3.0)}
ROWS = [(way, kind) for way in TARGETS for kind in ("message", "exception")]


def measured_here(way: str, kind: str, dsn: str) -> dict[str, float]:
    """Capture and deliver; return the CPU of an event in us, and the events a second."""
    from usercontext.sentry import SentryClient

    with tempfile.TemporaryDirectory() as directory:
        client = SentryClient(
            dsn,
            outbox=f"{directory}/outbox.db" if way == "outbox" else None,
            max_queue=EVENTS,
            max_queue_bytes=1 << 30,
        )
        capture = client.capture_message if kind == "message" else _exception(client)
        for _ in range(20):
            capture("the connection is open")
        _drain(client, 20)
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in range(EVENTS):
            capture("hello")
        _drain(client, EVENTS + 20)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        client.close(10)
    return {"cpu": cpu / EVENTS * 1e6, "rate": EVENTS / clock}


def _exception(client: Any) -> Callable[[str], object]:
    """Return what captures an exception of ten frames."""

    def capture(_text: str) -> object:
        try:
            fail(8)
        except ValueError:
            return client.capture_exception()

    return capture


def _drain(client: Any, number: int) -> None:
    while client.stats()["sent"] < number:
        assert client.flush(120)


def build_of(commit: str, directory: str) -> str:
    """Take a commit's source out of the repository's history; return where it is."""
    command = ["git", "-C", str(ROOT), "archive", commit, "src"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    return f"{directory}/src"


def measured(source: str, way: str, kind: str, dsn: str) -> dict[str, float]:
    """Measure one row of one build in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "row", way, kind, dsn],
        env={**os.environ, "PYTHONPATH": source},
        check=True,
        capture_output=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compare(commit: str, rounds: int) -> int:
    """Print a table; return how many targets were missed."""
    missed = 0
    print("| row | CPU us | before | ratio | events/s | before | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory, serving() as dsn:
        builds = {"now": str(ROOT / "src"), "before": build_of(commit, directory)}
        for way, kind in ROWS:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
            for _ in range(rounds):
                for name, source in builds.items():
                    found[name].append(measured(source, way, kind, dsn))
            cpu = {name: min(each["cpu"] for each in found[name]) for name in builds}
            rate = {name: max(each["rate"] for each in found[name]) for name in builds}
            ratios = cpu["now"] / cpu["before"], rate["now"] / rate["before"]
            missed += (ratios[0] > TARGETS[way][0]) + (ratios[1] < TARGETS[way][1])
            print(
                f"| {way}, {kind} | {cpu['now']:.0f} | {cpu['before']:.0f} | {ratios[0]:.2f} "
                f"| {rate['now']:,.0f} | {rate['before']:,.0f} | {ratios[1]:.1f} |",
                flush=True,
            )
    print(f"\n{missed} of {2 * len(ROWS)} targets missed")
    return missed


def main(arguments: list[str]) -> int:
    """Compare two builds, or be one of the processes that measure."""
    if arguments[:1] == ["row"]:
        print(json.dumps(measured_here(*arguments[1:])))
        return 0
    commit = arguments[0] if arguments else BASE
    return int(compare(commit, int(arguments[1]) if arguments[1:] else ROUNDS) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
