"""Run the tests of every library that we adapt with its newest release and its newest pre-release.

`tox run -e newest`, or `tox run -e newest -- django rq` for some of them. It prints a table, and
with `--write` it puts it into `docs/support.md`. The run ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "support.md"
LONGEST = 900  # seconds that the tests of one library may take

_CLIENTS = {
    "bugsnag": "bugsnag",
    "ddtrace": "ddtrace",
    "elastic-apm": "elasticapm",
    "honeybadger": "honeybadger",
    "logfire": "logfire",
    "loguru": "loguru",
    "newrelic": "newrelic",
    "opentelemetry-sdk": "opentelemetry",
    "posthog": "posthog",
    "pybrake": "pybrake",
    "raygun4py": "raygun",
    "rollbar": "rollbar",
    "scout-apm": "scout",
    "structlog": "structlog",
    "aws-xray-sdk": "xray",
}
_FRAMEWORKS = (
    *("aiohttp", "blacksheep", "bottle", "channels", "connexion", "falcon", "fastapi", "flask"),
    *("litestar", "pyramid", "quart", "sanic", "starlette", "tornado"),
)
_JOBS = {
    "apscheduler": "apscheduler",
    "arq": "arq",
    "celery": "celery",
    "dramatiq": "dramatiq",
    "huey": "huey",
    "procrastinate": "procrastinate",
    "rq": "rq",
    "saq": "saq",
    "taskiq": "taskiq",
}
_CALLS = {
    "ariadne": "ariadne",
    "connectrpc": "connectrpc",
    "fastmcp": "fastmcp",
    "grpcio": "grpc",
    "mcp": "mcp",
    "python-socketio": "socketio",
    "strawberry-graphql": "strawberry",
}
_SENTRY = ("", "_collected", "_integrations", "_telemetry")
_MATRIX = "tests/servers/test_matrix.py"

#: The arguments of pytest, by the library's name on PyPI.
LIBRARIES: dict[str, tuple[str, ...]] = {
    **{name: (f"tests/clients/test_{part}.py",) for name, part in _CLIENTS.items()},
    "sentry-sdk": tuple(f"tests/clients/test_sentry_sdk{part}.py" for part in _SENTRY),
    **{name: (f"tests/frameworks/test_{name}.py",) for name in _FRAMEWORKS},
    "django": ("tests/frameworks/test_django.py", "tests/frameworks/test_django_users.py"),
    "django-ninja": ("tests/frameworks/test_django_ninja.py",),
    "djangorestframework": ("tests/frameworks/test_django_rest_framework.py",),
    "werkzeug": ("tests/test_wsgi.py",),
    **{name: (f"tests/jobs/test_{part}.py",) for name, part in _JOBS.items()},
    **{name: (f"tests/calls/test_{part}.py",) for name, part in _CALLS.items()},
    "httpx": ("tests/sentry/test_transport.py", "tests/services/test_services.py"),
    "pyjwt": ("tests/resolvers/test_jwt.py",),
    "itsdangerous": ("tests/test_carried.py",),
    **{
        name: (_MATRIX, "-k", f"starlette-{server} or flask-{server}")
        for name, server in {
            "daphne": "daphne",
            "granian": "granian",
            "gunicorn": "gunicorn",
            "hypercorn": "hypercorn",
            "uvicorn": "uvicorn",
            "waitress": "waitress",
        }.items()
    },
}


@dataclass
class Row:
    """A library: the versions that were tried, and what came of each."""

    name: str
    oldest: str
    tried: dict[str, str] = field(default_factory=dict)
    newest: str = ""
    pre: str = ""

    @property
    def failed(self) -> bool:
        """Whether something did not pass."""
        return any(not said.startswith(("ok", "not run")) for said in self.tried.values())

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        shown = [f"{one}: {self.tried[one]}" if one else "" for one in (self.newest, self.pre)]
        return [self.name, self.oldest, *shown]


def oldest_of(name: str) -> str:
    """Return the oldest version that our extras allow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.compile(rf"{re.escape(name)}(?:\[\w+])?>=([\d.]+)", re.IGNORECASE)
    requirements = (one for each in project["optional-dependencies"].values() for one in each)
    return next((found[1] for found in map(asked.match, requirements) if found), "")


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def version_of(name: str, *options: str) -> str:
    """Return the version that pip would install of a library; "" where there is none."""
    shown = _pip(
        *("install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"),
        *options,
        name,
    )
    if shown.returncode:
        return ""
    (found,) = json.loads(shown.stdout)["install"]
    version: str = found["metadata"]["version"]
    return version


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def try_version(name: str, version: str) -> str:
    """Run a library's tests with one version of it; return a word or two of what came of it."""
    with TemporaryDirectory(prefix="newest") as folder:
        if version != _installed(name):
            done = _pip("install", "--target", folder, f"{name}=={version}")
            if done.returncode:
                return f"not installed ({done.stderr.strip().splitlines()[-1][:120]})"
        return _run(LIBRARIES[name], folder)


def _run(arguments: tuple[str, ...], folder: str) -> str:
    paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-rfE", *arguments]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LONGEST} s"
    return summary(done.stdout)


def summary(output: str) -> str:
    """Return what pytest's output says, in the words of the table."""
    lines = output.strip().splitlines() or [""]
    counted = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", lines[-1])}
    broken = counted.get("failed", 0) + counted.get("error", 0)
    if broken or not (counted or "skipped" in lines[-1]):
        first = next((one for one in lines if one.startswith(("FAILED ", "ERROR "))), lines[-1])
        test = first.partition(" - ")[0].rpartition("::")[2].removeprefix("ERROR ")
        return f"{broken or 'all'} failed, first {test}"
    return f"ok ({counted['passed']})" if counted.get("passed") else "not run"


def try_library(name: str) -> Row:
    """Try a library's newest release and, where there is a newer one, its pre-release."""
    row = Row(name, oldest_of(name))
    row.newest = version_of(name)
    pre = version_of(name, "--pre")
    row.pre = "" if pre == row.newest else pre
    for version in filter(None, (row.newest, row.pre)):
        row.tried[version] = try_version(name, version)
    return row


def table(rows: list[Row]) -> str:
    """Return the table of what was tried."""
    head = [["library", "oldest", "newest release", "pre-release"], ["---"] * 4]
    lines = (*head, *(row.cells() for row in rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(rows: list[Row]) -> None:
    """Put the table into the page, in the place of the last one."""
    before, begin, rest = PAGE.read_text().partition("<!-- newest -->\n")
    _, end, after = rest.partition("<!-- end of newest -->\n")
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no place for the table: run the matrix first")
    python = ".".join(map(str, sys.version_info[:3]))
    said = f"Of {time.strftime('%Y-%m-%d')}, on Python {python}:\n\n{table(rows)}\n"
    PAGE.write_text(f"{before}{begin}{said}{end}{after}")


def main() -> int:
    """Try what is named, by default everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", help="names on PyPI; by default all")
    parser.add_argument("--write", action="store_true", help="put the table into docs/support.md")
    options = parser.parse_args()
    if unknown := sorted(set(options.libraries) - LIBRARIES.keys()):
        parser.error(f"we adapt no library called {', '.join(unknown)}")
    rows = []
    for name in options.libraries or sorted(LIBRARIES):
        rows.append(try_library(name))
        print("  ".join(rows[-1].cells()), flush=True)
    print("\n" + table(rows))
    if options.write:
        write(rows)
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
