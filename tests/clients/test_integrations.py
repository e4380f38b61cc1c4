"""Rollbar's, Bugsnag's and Honeybadger's own integrations with Flask and Django.

Each runs in a process of its own, as they configure it: `python -m tests.clients.integrations`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
PEER = "203.0.113.9"
ADA = {"id": "1", "username": "ada"}
USERS = {
    "rollbar": ADA,
    "bugsnag": {**ADA, "name": "ada", "ip_address": PEER},
    "honeybadger": {"user_id": "1", "user_name": "ada", "client_address": PEER},
}
ADDRESSES = ("ip_address", "client_address")
SERVED = pytest.mark.parametrize(
    ("framework", "order"),
    [
        ("flask", "outside"),
        ("flask", "inside"),
        ("django-wsgi", "outside"),
        ("django-wsgi", "inside"),
        ("django-asgi", "outside"),
        ("django-asgi", "inside"),
    ],
)
TRACKERS = pytest.mark.parametrize("tracker", USERS)


@cache
def reports(framework: str, order: str) -> Any:
    """Return whom the reports of a failing request name, their addresses, and all their text."""
    for package in (*USERS, framework.partition("-")[0]):
        pytest.importorskip(package)
    program = [sys.executable, "-m", "tests.clients.integrations", framework, order]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@TRACKERS
@SERVED
def test_an_unhandled_error_names_our_user(tracker: str, framework: str, order: str) -> None:
    """Whole, whomever the framework has logged in, and with our address for the header's."""
    ((seen, text),) = reports(framework, order)["True"][tracker]
    user, address = seen
    assert user == USERS[tracker]
    assert address in (PEER, None)
    assert "bob@" not in text


@TRACKERS
@SERVED
def test_no_address_leaves_unasked(tracker: str, framework: str, order: str) -> None:
    """Neither the peer's nor what the client wrote into headers."""
    ((seen, text),) = reports(framework, order)["False"][tracker]
    user, address = seen
    assert user == {n: v for n, v in USERS[tracker].items() if n not in ADDRESSES}
    assert address is None
    assert PEER not in text
    assert "6.6.6.6" not in text
