"""What `import usercontext` loads and costs, beside other imports."""

from __future__ import annotations

import json
import subprocess
import sys

from overhead_tables import Table

__all__ = ["measure"]

FORBIDDEN = ("asyncio", "httpx", "starlette", "werkzeug", "dataclasses", "ipaddress")
BESIDE = ("logging", "dataclasses", "asyncio", "structlog", "starlette.requests", "werkzeug")
ALSO = ("httpx", "sentry_sdk")
REPEATS = 12

PROGRAM = """
import sys, time
before = set(sys.modules)
begin = time.perf_counter()
try:
    __import__(sys.argv[1])
except ImportError:
    print("null")
    sys.exit()
spent = time.perf_counter() - begin
new = sorted(set(sys.modules) - before)
import json
print(json.dumps([spent * 1000, new]))
"""


def measure(environment: dict[str, str]) -> Table:
    """Import each module in a fresh interpreter, the best of some interleaved tries."""
    modules = ("usercontext", *BESIDE, *ALSO)
    tries: dict[str, list[tuple[float, list[str]]]] = {name: [] for name in modules}
    for _ in range(REPEATS):
        for name in modules:
            answer = _import(name, environment)
            if answer is not None:
                tries[name].append(answer)
    table = Table(["import", "ms", "modules"])
    for name, answers in tries.items():
        if not answers:
            table.lines.append([name, "-", "not installed"])
            continue
        best, loaded = min(answers)
        table.lines.append([name, f"{best:.1f}", str(len(loaded))])
    if tries["usercontext"]:
        _judge(table, *min(tries["usercontext"]))
    return table


def _judge(table: Table, milliseconds: float, loaded: list[str]) -> None:
    # A virtualenv's start-up files load some modules of their own; they are not in the difference.
    forbidden = sorted(set(loaded) & set(FORBIDDEN))
    table.check("import usercontext: modules beyond an empty interpreter's", len(loaded), 60)
    table.check("import usercontext: ms (about)", milliseconds, 25, ".1f")
    table.check(f"import usercontext: forbidden modules {forbidden or ''}", len(forbidden), 0)


def _import(name: str, environment: dict[str, str]) -> tuple[float, list[str]] | None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    return None if answer is None else (answer[0], answer[1])
