"""Run frameworks' own test suites with every app served through us, and compare the outcomes.

`tox run -e suites`, or `tox run -e suites -- flask falcon` for some of them. Each suite comes with
the sources of a release that PyPI has, and runs in an environment of its own under `.suites/`:
once without us, once behind the plain middleware, and once with everything that a request can be
asked for. What comes out otherwise with us is run once more in each way, as many tests of servers
and of fresh interpreters give up on a busy machine; what differs then is named, and the run ends
with 1.

Quart's release has no tests with it: `--source quart=FOLDER` takes them from a checkout, which is
installed in place of the release. With `--write` the table is put into `docs/support.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "support.md"
PLUGINS = Path(__file__).parent
WORK = ROOT / ".suites"
LONGEST = 1800  # seconds that one run of a suite may take
SERVED = ("bare", "plain", "full")


@dataclass(frozen=True)
class Suite:
    """A framework's tests: the release they are of, what they need, and the classes we serve."""

    version: str
    needs: tuple[str, ...]
    classes: tuple[str, ...]
    extras: str = ""
    has_tests: bool = True


# Up to pytest 9.0: later ones call `os.fstat`, which Falcon's tests replace, and have lost a name
# that Flask's import.
_OLDER_PYTEST = "pytest<9.1"
_STARLETTE = ("starlette.applications.Starlette", "starlette.testclient._TestClientTransport")

#: By the name on PyPI. `GROUP` stands for a group of dependencies of the suite's `pyproject.toml`.
SUITES = {
    "falcon": Suite(
        "4.4.0",
        ("-r", "{source}/requirements/tests", _OLDER_PYTEST),
        ("falcon.App", "falcon.asgi.App"),
    ),
    "fastapi": Suite("0.165.0", ("--group", "{source}/pyproject.toml:tests"), _STARLETTE, "[all]"),
    "flask": Suite(
        "3.1.3", ("--group", "{source}/pyproject.toml:tests", _OLDER_PYTEST), ("flask.Flask",)
    ),
    "quart": Suite(
        "0.22.0",
        ("--group", "{source}/pyproject.toml:tests"),
        ("quart.Quart",),
        has_tests=False,
    ),
    "starlette": Suite("1.10.0", ("--group", "{source}/pyproject.toml:dev"), _STARLETTE, "[full]"),
}

#: What our resolvers' requests and our client need.
_OURS = ("httpx", "starlette", "werkzeug")


@dataclass
class Row:
    """What came of a suite, by how its apps were served."""

    name: str
    version: str
    seen: dict[str, dict[str, Any]]

    @property
    def differences(self) -> list[str]:
        """The tests whose outcome is another one with us."""
        return [
            f"{test}, {how}: {said}"
            for how in SERVED[1:]
            for test, said in differing(self.seen["bare"], self.seen[how]).items()
        ]

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        counted = Counter(self.seen["bare"]["outcomes"].values())
        said = ", ".join(f"{n:,} {outcome}" for outcome, n in counted.most_common())
        requests = [sum(self.seen[how]["requests"].values()) for how in SERVED[1:]]
        reports = [self.seen[how]["reports"] for how in SERVED[1:]]
        numbers = [" / ".join(f"{n:,}" for n in each) for each in (requests, reports)]
        return [f"{self.name} {self.version}", said, *numbers, str(len(self.differences))]


def differing(bare: dict[str, Any], served: dict[str, Any]) -> dict[str, str]:
    """Return the tests that came out in another way, each with both outcomes."""
    before, after = bare["outcomes"], served["outcomes"]
    return {
        test: f"{before.get(test, 'absent')} -> {after.get(test, 'absent')}"
        for test in sorted(before.keys() | after.keys())
        if before.get(test) != after.get(test)
    }


def _run(*command: str | Path, **options: Any) -> None:
    subprocess.run([str(one) for one in command], check=True, **options)


def _environment(name: str) -> Path:
    """Return the folder of a suite's environment, made at the first run."""
    folder = WORK / name / "environment"
    if not folder.exists():
        venv.create(folder, with_pip=True)
        # Groups of dependencies are known to pip from 25.1 on.
        _run(folder / "bin" / "pip", "install", "--quiet", "--upgrade", "pip")
    return folder / "bin"


def _source(name: str, suite: Suite, bin_folder: Path) -> Path:
    """Return the folder of a release's sources, downloaded at the first run."""
    folder = WORK / name / f"{name}-{suite.version}"
    if not folder.exists():
        asked = ("--no-deps", "--no-binary", name, f"{name}=={suite.version}")
        _run(bin_folder / "pip", "download", "--quiet", "--dest", WORK / name, *asked)
        with tarfile.open(WORK / name / f"{name}-{suite.version}.tar.gz") as archive:
            archive.extractall(WORK / name, filter="data")
    return folder


def _prepare(name: str, suite: Suite, checkout: str | None) -> tuple[Path, Path]:
    """Return a suite's executables and its sources, with all that its tests need installed."""
    bin_folder = _environment(name)
    source = Path(checkout).resolve() if checkout else _source(name, suite, bin_folder)
    if not (source / "tests").is_dir():
        raise SystemExit(f"{source} has no tests: give a checkout, --source {name}=FOLDER")
    framework = str(source) if checkout else f"{name}{suite.extras}=={suite.version}"
    needs = [one.format(source=source) for one in suite.needs]
    _run(bin_folder / "pip", "install", "--quiet", framework, *needs, *_OURS)
    ours = ("--target", WORK / name / "usercontext", ROOT)
    _run(bin_folder / "pip", "install", "--quiet", "--no-deps", "--upgrade", *ours)
    return bin_folder, source


def _run_suite(
    name: str, how: str, bin_folder: Path, source: Path, tests: tuple[str, ...] = ("tests",)
) -> dict[str, Any]:
    """Run a suite's tests, or some of them, and return what the plugin saw."""
    written = WORK / name / f"{how}.json"
    written.with_suffix(".db").unlink(missing_ok=True)
    written.unlink(missing_ok=True)
    paths = [PLUGINS] if how == "bare" else [PLUGINS, WORK / name / "usercontext"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "SUITE_SERVED": how,
        "SUITE_CLASSES": " ".join(SUITES[name].classes),
        "SUITE_OUTCOMES": str(written),
    }
    command = [bin_folder / "pytest", "-q", "-p", "served", "-p", "no:cacheprovider", *tests]
    with written.with_suffix(".log").open("w") as log:
        subprocess.run(
            command,
            check=False,
            cwd=source,
            env=environment,
            stdout=log,
            stderr=log,
            timeout=LONGEST,
        )
    if not written.exists():
        raise SystemExit(f"the tests of {name} did not run: see {written.with_suffix('.log')}")
    seen: dict[str, Any] = json.loads(written.read_text())
    return seen


def _try_suite(name: str, checkout: str | None) -> Row:
    """Run a suite in each way, and say what differs."""
    suite = SUITES[name]
    bin_folder, source = _prepare(name, suite, checkout)
    shown = [
        bin_folder / "python",
        "-c",
        f"from importlib import metadata as m; print(m.version({name!r}))",
    ]
    version = subprocess.check_output(shown, text=True).strip()
    seen = {how: _run_suite(name, how, bin_folder, source) for how in SERVED}
    again = tuple(sorted({test for how in SERVED for test in differing(seen["bare"], seen[how])}))
    for how in SERVED if again else ():
        repeated = _run_suite(name, how, bin_folder, source, again)
        seen[how]["outcomes"].update(repeated["outcomes"])
    return Row(name, version, seen)


def table(rows: list[Row]) -> str:
    """Return the table of what was run."""
    head = ["suite", "tests without us", "requests through us", "errors reported", "differences"]
    lines = (head, ["---"] * len(head), *(row.cells() for row in rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(rows: list[Row]) -> None:
    """Put the table into the page, in the place of the last one."""
    before, begin, rest = PAGE.read_text().partition("<!-- suites -->\n")
    _, end, after = rest.partition("<!-- end of suites -->\n")
    python = ".".join(map(str, sys.version_info[:3]))
    said = f"Of {time.strftime('%Y-%m-%d')}, on Python {python}:\n\n{table(rows)}\n"
    PAGE.write_text(f"{before}{begin}{said}{end}{after}")


def main() -> int:
    """Run what is named, by default every suite whose tests are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="by default all")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--write", action="store_true", help="put the table into docs/support.md")
    options = parser.parse_args()
    checkouts = dict(one.split("=", 1) for one in options.source)
    there = [name for name in SUITES if SUITES[name].has_tests or name in checkouts]
    rows = []
    for name in options.suites or there:
        rows.append(_try_suite(name, checkouts.get(name)))
        print(*rows[-1].cells(), *rows[-1].differences, sep="\n  ", flush=True)
    print("\n" + table(rows))
    if options.write:
        write(rows)
    return int(any(row.differences for row in rows))


if __name__ == "__main__":
    sys.exit(main())
