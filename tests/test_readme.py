"""README and docs: their code runs, their links lead somewhere, and the README is short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# The README's blocks are run by `test_doors.py`, each in an app of its framework.
WITH_CODE = [page for page in PAGES[1:] if "```python" in page.read_text()]
# Other pages need what they are named for.
NEEDED = {
    "tutorial": "fastapi",
    "delivery": "httpx",
    "fastapi-with-sentry-sdk": "jwt",
    "inspector": "sentry_sdk",
    "resolvers": "jwt",
    "services": "starlette",
    "django-rest-framework": "rest_framework",
    "django-bolt": "django_bolt",
}
FRAMEWORKS = (
    "fastapi",
    "starlette",
    "litestar",
    "quart",
    "flask",
    "django",
    "django-rest-framework",
    "channels",
    "falcon",
    "pyramid",
    "bottle",
    "aiohttp",
    "sanic",
    "tornado",
    "blacksheep",
    "connexion",
    "emmett",
    "robyn",
    "django-bolt",
)
# Their pages are their examples: what they need does not go with what the other examples do.
PAGE_ALONE = {"emmett", "robyn", "django-bolt"}
CLIENTS = {
    "bugsnag": "bugsnag",
    "ddtrace": "ddtrace.trace",
    "elasticapm": "elasticapm",
    "honeybadger": "honeybadger",
    "langfuse": "langfuse",
    "logfire": "logfire",
    "logging": "logging",
    "loguru": "loguru",
    "mlflow": "mlflow",
    "newrelic": "newrelic.agent",
    "opentelemetry": "opentelemetry.sdk",
    "phoenix": "openinference",
    "posthog": "posthog",
    "pybrake": "pybrake",
    "raygun": "raygun4py",
    "rollbar": "rollbar",
    "scout": "scout_apm",
    "sentry-sdk": "sentry_sdk",
    "structlog": "structlog",
    "traceloop": "opentelemetry.sdk",
    "xray": "aws_xray_sdk",
}

#: What other pages import.
IMPORTED = {
    "fastapi-with-sentry-sdk": ["fastapi", "sentry_sdk", "sqlalchemy", "aiosqlite"],
    "language-models": ["anthropic", "openai", "opentelemetry.sdk"],
    "mongoengine": ["mongoengine"],
    "peewee": ["peewee"],
    "pony": ["pony"],
    "serverless": ["mangum", "fastapi"],
    "shared-outbox": ["redis", "psycopg", "httpx"],
    "sqlalchemy": ["sqlalchemy", "fastapi", "httpx"],
    "sqlmodel": ["sqlmodel"],
    "testing": ["django", "flask", "starlette", "httpx"],
    "typing": ["starlette"],
    "tortoise": ["tortoise"],
}

# Clients of each kind (payloads, log lines, transactions): with each a request is served by every
# framework of the section that all clients' pages have.
VISITED = {"rollbar", "structlog", "opentelemetry", "sentry-sdk"}

JOBS = {
    "apscheduler": "apscheduler",
    "arq": "arq",
    "celery": "celery",
    "django-tasks": "django.tasks",
    "dramatiq": "dramatiq",
    "huey": "huey",
    "procrastinate": "procrastinate",
    "rq": "rq",
    "saq": "saq",
    "taskiq": "taskiq",
}


def page_id(page: Path) -> str:
    """Name a page in the test's id."""
    return page.relative_to(ROOT).with_suffix("").as_posix()


def run_page(page: Path, folder: Path) -> None:
    """Run a page in an interpreter of its own, as it configures the process."""
    runner = (
        "client_pages" if page.parent.name == "clients" and page.stem in VISITED else "snippets"
    )
    program = f"import {runner}, pathlib; {runner}.run(pathlib.Path({str(page)!r}))"
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", WITH_CODE, ids=page_id)
def test_the_code_runs(page: Path, tmp_path: Path) -> None:
    """Whoever copies the code of a page, block by block, has a program that does what it says."""
    needed = NEEDED.get(page.stem, page.stem if page.stem in FRAMEWORKS else "")
    if needed:
        pytest.importorskip(needed)
        pytest.importorskip("httpx")
    for package in IMPORTED.get(page.stem, ()):
        pytest.importorskip(package)
    if page.parent.name == "calls":
        pytest.importorskip("mcp")
    if page.parent.name == "clients":
        for package in (CLIENTS[page.stem], "werkzeug", "fastapi", "flask", "django", "httpx"):
            pytest.importorskip(package)
    if page.parent == ROOT / "docs" / "jobs":
        pytest.importorskip(JOBS[page.stem])
    if page.parent == ROOT / "docs" / "jobs" or page.stem == "services":
        pytest.importorskip("itsdangerous")
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project names one that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_installs_its_server(example: str) -> None:
    """The server that an example's page starts is among what it has installed before."""
    folder = ROOT / "examples" / example
    commands = re.findall(
        r"^\$ (?:[A-Z_]+=\S+ )*(\w+)", (folder / "README.md").read_text(), re.MULTILINE
    )
    needed = {"uvicorn", "gunicorn", "hypercorn", "daphne"}.intersection(commands)
    installed = re.findall(r"^\w+", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert needed <= set(installed)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_installs_this_checkout(example: str) -> None:
    """What an example installs first is the project around it, with extras that exist."""
    path = ROOT / "examples" / example / "requirements.txt"
    ours = path.read_text().splitlines()[0]
    project = (path.parent / ours.partition("[")[0]).resolve() / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert set(ours.partition("[")[2].rstrip("]").split(",")) <= set(extras)


def test_the_readme_is_short() -> None:
    """Who opens the README has read it in two minutes: long matter stands in the docs."""
    assert 200 <= len(README.read_text().split()) <= 600


def compared_in(page: Path) -> list[str]:
    """Return the lines of the table that `scripts/compare.py` has written into a page."""
    return (
        page.read_text()
        .partition("<!-- compared -->\n")[2]
        .partition("<!-- end -->")[0]
        .split("\n")
    )


def test_the_readme_compares() -> None:
    """The table of the README has a row for each tool, and is that of the page about it."""
    rows = [line.split("|")[1] for line in compared_in(README) if line.startswith("|")][2:]
    tools = "usercontext sentry structlog starlette-context OpenTelemetry asgi django-structlog"
    assert all(tool in row for tool, row in zip(tools.split(), rows, strict=True))
    assert compared_in(README) == compared_in(ROOT / "docs" / "compared.md")


@pytest.mark.parametrize("command", ["sh scripts/demo", "sh scripts/test"])
def test_the_readme_names_both_commands(command: str) -> None:
    """Whoever opens the README finds the command that shows it and the one that tests it."""
    assert f"$ {command}\n" in README.read_text()


def test_the_build_calls_what_the_readme_names() -> None:
    """The build machine runs the tests by the README's command, so the two cannot differ."""
    assert "sh scripts/test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_pages_share_a_template(framework: str) -> None:
    """Every framework's page answers the same questions in the same order."""
    text = (ROOT / "docs" / "frameworks" / f"{framework}.md").read_text()
    titles = [title.split(" in ")[0] for title in re.findall(r"^## (.+)$", text, re.MULTILINE)]
    assert titles == [
        "Install",
        "Enable",
        "The user",
        "What is reported",
        "Where to put it",
        "Check it",
    ]


def frameworks_of(client: str) -> str:
    """Return what a client's page says of frameworks."""
    text = (ROOT / "docs" / "clients" / f"{client}.md").read_text()
    return text.partition("### FastAPI, Flask, Django\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("client", CLIENTS)
def test_client_pages_show_three_frameworks(client: str) -> None:
    """Every reporting client's page has what is run with clients of each kind."""
    assert frameworks_of(client) == frameworks_of("rollbar") != ""


@pytest.mark.parametrize("client", CLIENTS)
def test_client_pages_share_a_template(client: str) -> None:
    """Every reporting client's page says how, what arrives, and what cannot be done."""
    text = (ROOT / "docs" / "clients" / f"{client}.md").read_text()
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == ["Install", "Enable", "What arrives", "What it cannot do"]
