"""Django's management commands: what fails in one is reported by `init()` in the settings."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")

from usercontext.sentry import read_reports

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
import usercontext

SECRET_KEY = "change me"
INSTALLED_APPS = ["shop"]
usercontext.init("sqlite:///{project}/reports.db")
"""

COMMAND = """
import logging
from django.core.management.base import BaseCommand, CommandError
from usercontext import capture_exception, isolation_scope, use_user

class Command(BaseCommand):
    def handle(self, **options):
"""

FAILING = {
    "the command itself": ("raise KeyError('order')", None),
    "what it does for one user": (
        "with isolation_scope(user={'id': 'ada'}): raise KeyError('order')",
        "ada",
    ),
    "what it handles": (
        """
        for user in ('ada', 'bob'):
            with isolation_scope(user={'id': user}):
                try:
                    {}['order']
                except KeyError as error:
                    if user == 'bob':
                        capture_exception(error)
""",
        "bob",
    ),
}


def reports_of(code: str, project: Path) -> list[Any]:
    """Run a command of a project of its own; return what was reported."""
    commands = project / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    for package in (commands.parent.parent, commands.parent, commands):
        (package / "__init__.py").touch()
    (project / "settings.py").write_text(SETTINGS.format(project=project))
    (commands / "bill.py").write_text(COMMAND + "        " + code)
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings"}
    environ["PYTHONPATH"] = os.pathsep.join((str(project), environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "django", "bill"]
    subprocess.run(command, check=False, cwd=project, env=environ, capture_output=True)
    return list(read_reports(project / "reports.db"))


@pytest.mark.parametrize("code", FAILING)
def test_an_error_of_a_command_is_reported_once(code: str, tmp_path: Path) -> None:
    """With the user of its scope, if it is in one."""
    program, user = FAILING[code]
    (event,) = reports_of(program, tmp_path)
    assert event["exception"]["values"][-1]["type"] == "KeyError"
    assert (event.get("user") or {}).get("id") == user


def test_an_answer_of_a_command_is_no_error(tmp_path: Path) -> None:
    """A CommandError tells who runs it what to do, and is reported nowhere."""
    assert reports_of("raise CommandError('name an order')", tmp_path) == []
