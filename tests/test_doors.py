"""The README's three doors: whoever copies the five lines of one gets what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOORS = ("I have sentry-sdk", "I have only logs", "I have nothing yet")

# What each framework's app has before, and how two requests are sent to it: ada's, and nobody's.
FASTAPI = """
from fastapi import FastAPI
app = FastAPI()
def user_of(request):
    return {"id": 1, "username": "ada"} if request.headers.get("x-key") == "ada's" else None
@app.get("/orders")
async def order():
    logging.getLogger("shop").warning("asked")
    raise KeyError(7)
def send():
    from starlette.testclient import TestClient
    client = TestClient(app, raise_server_exceptions=False)
    client.get("/orders", headers={"x-key": "ada's"})
    client.get("/orders")
"""
FLASK = """
from flask import Flask
app = Flask("shop")
def user_of(request):
    return {"id": 1, "username": "ada"} if request.headers.get("x-key") == "ada's" else None
@app.get("/orders")
def order():
    logging.getLogger("shop").warning("asked")
    raise KeyError(7)
def send():
    client = app.test_client()
    client.get("/orders", headers={"x-key": "ada's"})
    client.get("/orders")
"""
DJANGO = """
INSTALLED_APPS, MIDDLEWARE = [], ["page.authenticate"]
LOGGING = {
    "version": 1,
    "formatters": {"line": {"format": "%(user_id)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line",
        "stream":
        getattr(sys.modules["page"], "lines", sys.stderr)}},
    "loggers": {"shop": {"handlers": ["console"]}},
}
class Ada:
    pk, email, is_authenticated, is_anonymous = 1, "", True, False
    def get_username(self):
        return "ada"
def authenticate(get_response):
    def middleware(request):
        if request.headers.get("x-key") == "ada's":
            request.user = Ada()
        return get_response(request)
    return middleware
def order(request):
    logging.getLogger("shop").warning("asked")
    raise KeyError(7)
def send():
    import django
    from django.conf import settings
    from django.urls import path
    page = sys.modules["page"]
    page.urlpatterns = [path("orders", order)]
    named = {name: value for name, value in vars(page).items() if name.isupper()}
    settings.configure(ROOT_URLCONF="page", ALLOWED_HOSTS=["*"], SECRET_KEY="none", **named)
    django.setup()
    from django.test import Client
    client = Client(raise_request_exception=False)
    client.get("/orders", headers={"x-key": "ada's"})
    client.get("/orders")
"""
APPS = {"FastAPI": FASTAPI, "Flask": FLASK, "Django": DJANGO}

SENTRY = """
import sentry_sdk
from importlib import import_module
sent = []
# The framework's own integrations are on, as in an app that has installed no other framework:
# looking for all of those that these tests have takes twenty seconds.
NAMES = {"FastAPI": ["Starlette", "FastApi"], "Flask": ["Flask"], "Django": ["Django"]}
modules = [(name, import_module(f"sentry_sdk.integrations.{name.lower()}"))
    for name in NAMES[FRAMEWORK]]
sentry_sdk.init("https://key@sentry.example/1", before_send=lambda event, hint: sent.append(event),
    auto_enabling_integrations=False,
    integrations=[getattr(module, f"{name}Integration")() for name, module in modules])
def found():
    return [event.get("user", {}).get("username") for event in sent]
"""
LOGS = """
import io
logging.basicConfig(format="%(user_id)s %(message)s")
sys.stderr = lines = io.StringIO()
logging.getLogger().handlers[0].setStream(lines)
def found():
    asked = [line for line in lines.getvalue().splitlines() if line.endswith(" asked")]
    return [{"1": "ada", "None": None}[line.split()[0]] for line in asked]
"""
NOTHING = """
def found():
    from usercontext.sentry import read_reports
    usercontext.flush()
    return [report.get("user", {}).get("username") for report in read_reports("reports.db")]
"""
ANSWERS = dict(zip(DOORS, (SENTRY, LOGS, NOTHING), strict=True))


def block(door: str, framework: str) -> str:
    """Return the lines that the README has for a framework behind a door."""
    _, _, section = README.partition(f"### {door}\n")
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```python\n(# (\w+)\n.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (found,) = [text for text, name in blocks if name == framework]
    return str(found)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("framework", APPS)
def test_a_door_leads_to_the_user(framework: str, door: str, tmp_path: Path) -> None:
    """All that is told of ada's failing request names ada, and then of nobody's, nobody."""
    pytest.importorskip(framework.lower())
    pytest.importorskip("httpx")
    if door == DOORS[0]:
        pytest.importorskip("sentry_sdk")
    parts = [
        "import logging, sys\nsys.modules['page'] = sys.modules['__main__']",
        f"FRAMEWORK = {framework!r}",
        ANSWERS[door],
        APPS[framework],
        block(door, framework),
        "send()\nanswer = list(dict.fromkeys(found()))\nassert answer == ['ada', None], answer",
    ]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(parts)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("framework", APPS)
def test_a_door_has_few_lines(framework: str, door: str) -> None:
    """Five lines at most are to be copied."""
    lines = [line for line in block(door, framework).splitlines()[1:] if line]
    assert 3 <= len(lines) <= 5
