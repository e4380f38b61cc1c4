"""`import usercontext` costs next to nothing, and pulls in nobody's package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import usercontext

PARENT = str(Path(usercontext.__file__).parent.parent)

# Slow to import, or somebody's choice that is not ours to make.
SLOW = {
    "asyncio",
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "socket",
    "sqlite3",
    "ssl",
    "urllib.request",
    "uuid",
}
FOREIGN = {
    "asgiref",
    "bottle",
    "bugsnag",
    "ddtrace",
    "django",
    "elasticapm",
    "falcon",
    "fastapi",
    "flask",
    "gevent",
    "honeybadger",
    "httpx",
    "httpx2",
    "itsdangerous",
    "jinja2",
    "jwt",
    "litestar",
    "loguru",
    "newrelic",
    "opentelemetry",
    "posthog",
    "pyramid",
    "pytest",
    "quart",
    "rollbar",
    "sentry_sdk",
    "starlette",
    "structlog",
    "trio",
    "uvicorn",
    "webob",
    "werkzeug",
}


def modules_of(statement: str, *options: str) -> set[str]:
    """Return the modules that a statement adds to those of an interpreter that has just started.

    With `-S` the `.pth` files of installed packages load nothing beforehand.
    """
    code = (
        "import os, site, sys; before = set(sys.modules); sys.path.append(sys.argv[1])\n"
        f"{statement}\n"
        "added = sorted(set(sys.modules) - before); import json; print(json.dumps(added))"
    )
    command = [sys.executable, "-I", *options, "-c", code, PARENT]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def test_few_modules_are_loaded() -> None:
    """A bare interpreter loads 60 modules more at most."""
    assert len(modules_of("import usercontext", "-S")) <= 60


def test_nothing_slow_is_loaded() -> None:
    """What is slow of the standard library waits until it is needed."""
    assert modules_of("import usercontext", "-S") & SLOW == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import usercontext",
        "import usercontext.asgi, usercontext.wsgi",
        "import usercontext.clients, usercontext.frameworks, usercontext.resolvers",
        "import usercontext.testing",
        "import usercontext.cli",
    ],
)
def test_nothing_foreign_is_loaded(statement: str) -> None:
    """No framework, reporting client or HTTP client of others is loaded before it is asked for."""
    assert modules_of(statement) & FOREIGN == set()


def test_the_plugin_for_pytest_loads_nothing_more() -> None:
    """Everybody's pytest loads the plugin, so it costs no more than the package itself."""
    statement = "import usercontext.testing.pytest_plugin"
    added = modules_of(f"import pytest, usercontext; before = set(sys.modules)\n{statement}")
    assert {name for name in added if name.startswith("usercontext")} == {
        "usercontext.testing",
        "usercontext.testing.pytest_plugin",
    }
