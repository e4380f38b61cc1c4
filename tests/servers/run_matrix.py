"""Runs every scenario on every framework and server, and writes what came of it to a page.

`tox run -e matrix`, or `python -m tests.servers.run_matrix --help`. With `--newer` it runs those
that need newer packages than the rest, and writes their part of the page. Each pair is one run of
pytest, whose result is kept in `.matrix/`: a run that was cut short goes on where it stopped, and
what is kept counts only for the code and the packages that it was made with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import usercontext
from tests.servers.frameworks import FRAMEWORKS, is_newer, is_older, release
from tests.servers.results import Result, read_result
from tests.servers.support import write_newer, write_page
from tests.servers.test_matrix import PAIRS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.frameworks import Framework
    from tests.servers.servers import Server

    Pair = tuple[Framework, Server]

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".matrix"
LONGEST = 900  # seconds that a pair may take


#: Code that no result depends on; what pairs need of the last two is in their keys.
_APART = {
    *("results.py", "run_matrix.py", "support.py"),
    *("test_results.py", "test_servers.py", "test_users.py"),
    *("frameworks.py", "servers.py"),
}


def _key(pair: Pair) -> str:
    """Name what a result depends on: our code, the tests' and the versions of the packages."""
    framework, server = pair
    needs = {name: release(name) for name in (*framework.needs, *server.needs)}
    parts = sys.version, needs, asdict(framework), asdict(server)
    digest = hashlib.sha256(json.dumps(parts, default=sorted, sort_keys=True).encode())
    for path in _code(framework):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _code(framework: Framework) -> list[Path]:
    """Return our modules and those of the tests, but no other framework's app."""
    apps = {f"{name}_app.py" for name in FRAMEWORKS} - {f"{framework.name}_app.py"}
    tests = [p for p in Path(__file__).parent.rglob("*.py") if p.name not in _APART | apps]
    return sorted([*Path(usercontext.__file__).parent.rglob("*.py"), *tests])


@dataclass
class Matrix:
    """A run: the pairs, where their results are kept, and what runs at the moment."""

    pairs: list[Pair]
    folder: Path
    jobs: int
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Result] = field(default_factory=dict)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, again: bool) -> None:
        """Run what has no result yet, and say how far it has come after each pair."""
        todo = [pair for pair in self.pairs if not self._known(pair, again)]
        print(f"{len(self.pairs)} pairs, {len(self.pairs) - len(todo)} of them known", flush=True)
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = [pool.submit(self._run_pair, pair) for pair in todo]
                for number, future in enumerate(as_completed(futures), 1):
                    self._progress(number, len(todo), future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _known(self, pair: Pair, again: bool) -> bool:
        path = self._path(pair)
        if not path.exists():
            return False
        result = self.results[_name(pair)] = read_result(path, _name(pair))
        return not (again and result.failed)

    def _path(self, pair: Pair) -> Path:
        """Return where the result is kept; what other code brought about is removed."""
        path = self.folder / _name(pair) / f"{_key(pair)}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob("*.xml"):
            if other != path:
                other.unlink()
        return path

    def _run_pair(self, pair: Pair) -> Result:
        name, path = _name(pair), self._path(pair)
        path.unlink(missing_ok=True)
        unfinished = path.with_suffix(".part")
        command = [sys.executable, "-m", "pytest", "-q", "tests/servers/test_matrix.py"]
        command += ["-p", "no:cacheprovider", f"--junitxml={unfinished}"]
        with path.with_name("log").open("wb") as log:
            environment = {**os.environ, "MATRIX": name}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            self.running.add(process)
            try:
                status = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.terminate()
                status = process.wait()
            self.running.discard(process)
        if status in {0, 1}:
            unfinished.rename(path)
        result = read_result(path, name)
        self.results[name] = result
        return result

    def _progress(self, number: int, total: int, result: Result) -> None:
        gone = time.monotonic() - self.started
        left = gone / number * (total - number)
        line = f"[{number}/{total}] {result.name}: {result.summary()}"
        print(f"{line} ({result.seconds:.0f} s); {_clock(gone)} gone, {_clock(left)} to go")
        for failure in result.failures:
            print(f"    {failure}")
        sys.stdout.flush()

    def _stop(self) -> None:
        # pytest stops its server when it is asked to end.
        for process in list(self.running):
            process.terminate()


def _name(pair: Pair) -> str:
    framework, server = pair
    return f"{framework.name}-{server.name}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_matrix",
        description="Run every scenario on every framework and server, and write docs/support.md.",
        epilog="Ends with 0 if all passed, 1 if a scenario failed, 2 if a pair could not be run,"
        " 130 if it was stopped; run it again to go on.",
    )
    parser.add_argument("pairs", nargs="*", help="only pairs whose name holds one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pairs at once")
    parser.add_argument("--again", action="store_true", help="run again what has failed")
    parser.add_argument("--newer", action="store_true", help="what needs the newest packages")
    parser.add_argument("--fresh", action="store_true", help="forget all results")
    options = parser.parse_args(argv)
    for wanted in options.pairs:
        if not _chosen([wanted], newer=options.newer):
            parser.error(f"no pair's name holds {wanted!r}")
    return options


def _chosen(wanted: Sequence[str], *, newer: bool) -> list[Pair]:
    pairs = [pair for pair in PAIRS if not wanted or any(one in _name(pair) for one in wanted)]
    if newer:
        return [(one, server) for one, server in pairs if is_newer(one.name, server.name)]
    return [(one, server) for one, server in pairs if is_older(one.name)]


def _conclude(matrix: Matrix) -> int:
    results = list(matrix.results.values())
    failed = [result for result in results if result.failed]
    absent = [result for result in results if result.absent]
    print(f"\n{len(results)} pairs: {len(failed)} failed, {len(absent)} could not be run")
    for result in (*failed, *absent):
        print(f"  {result.name}: {result.summary()}")
    return 1 if failed else 2 if absent else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix; return 0, 1 if a scenario failed, 2 if a pair could not be run."""
    options = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pairs = _chosen(options.pairs, newer=options.newer)
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    matrix = Matrix(pairs, KEPT, options.jobs)
    try:
        matrix.run(options.again)
    except KeyboardInterrupt:
        print("\nstopped; run it again to go on", file=sys.stderr)
        return 130
    if not options.pairs:
        write = write_newer if options.newer else write_page
        write(ROOT / "docs" / "support.md", pairs, matrix.results)
    return _conclude(matrix)


if __name__ == "__main__":
    sys.exit(main())
