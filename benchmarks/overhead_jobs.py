"""Count the instructions that carrying a user costs, and check the gates.

    python benchmarks/overhead_jobs.py

Each figure is the difference between two loops of other lengths under `valgrind
--tool=callgrind`, so that start-up drops out. Exit status 1 if a gate is missed.

    mark        enqueue with a known user, over enqueueing without: at most 60,000
    blank       a job without identity: at most 3 times the bare `isolation_scope`

A worker has no scope around its jobs, so jobs and scopes are measured without one. The bare scope
is one that is kept and entered again. Where Huey is installed, a whole task of Huey's is run with
and without the extension too: what the extension adds to one that nobody enqueued keeps the same
gate.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main"]

PROGRAM = """
import sys, usercontext
from usercontext.carried import CarriedIdentity
from usercontext.jobs.base import JobContext
usercontext.init(None, carried=CarriedIdentity(keys=["k" * 32], audience="shop"))
jobs = JobContext("benchmark", {})

def scope():
    with usercontext.isolation_scope():
        pass

def blank():
    with jobs.running(None, "mail.send", "0d9e8f7a1b2c4d3e8f90a1b2c3d4e5f6"):
        pass

def mark():
    return jobs.mark("mail.send", "0d9e8f7a1b2c4d3e8f90a1b2c3d4e5f6")

def kept():
    with bare:
        pass

def carried():
    with jobs.running(text, "mail.send", "0d9e8f7a1b2c4d3e8f90a1b2c3d4e5f6"):
        pass

def huey_of(name):
    huey = MemoryHuey(name)
    @huey.task()
    def work():
        pass
    return huey, work

def run_plain():
    plain.execute(plain_work.s())

def run_extended():
    extended.execute(extended_work.s())

bare = usercontext.isolation_scope()
try:
    from huey import MemoryHuey
    from usercontext.jobs.huey import UserContext
except ImportError:
    pass
else:
    import logging
    logging.getLogger("huey").setLevel("ERROR")
    (plain, plain_work), (extended, extended_work) = huey_of("plain"), huey_of("extended")
    UserContext(extended)
what, times = globals()[sys.argv[1].partition(" ")[0]], int(sys.argv[2])
with usercontext.isolation_scope(user={"id": 42}):
    text = mark()
    if sys.argv[1].startswith("mark"):
        if sys.argv[1].endswith("nobody"):
            usercontext.set_user(None)
        for _ in range(times):
            what()
if not sys.argv[1].startswith("mark"):
    for _ in range(times):
        what()
"""


def instructions(name: str, few: int = 50, many: int = 250) -> float:
    """Return the instructions of one call."""
    few_total, many_total = (_total(name, times) for times in (few, many))
    return (many_total - few_total) / (many - few)


def _total(name: str, times: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        # No bytecode is written: the first run would else do more than the second.
        environ = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        environ |= {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
        subprocess.run(
            [*command, sys.executable, "-c", PROGRAM, name, str(times)],
            check=True,
            capture_output=True,
            env=environ,
        )
        found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> int:
    """Measure, print a table, and return whether a gate was missed."""
    names = ["mark", "mark nobody", "scope", "kept", "blank", "carried"]
    has_huey = find_spec("huey") is not None
    if has_huey:
        names += ["run_plain", "run_extended"]
    counts = {name: instructions(name) for name in names}
    for name, count in counts.items():
        print(f"{name:12} {count:10,.0f}")
    bare = min(counts["scope"], counts["kept"])
    marking = counts["mark"] - counts["mark nobody"]
    times = {"a job without identity": counts["blank"] / bare}
    if has_huey:
        added = counts["run_extended"] - counts["run_plain"]
        times["what Huey's extension adds to such a task"] = added / bare
    print(f"enqueue with a known user, over without: {marking:,.0f} (at most 60,000)")
    for what, found in times.items():
        print(f"{what}: {found:.2f} x isolation_scope (at most 3)")
    return int(marking > 60_000 or max(times.values()) > 3)


if __name__ == "__main__":
    sys.exit(main())
