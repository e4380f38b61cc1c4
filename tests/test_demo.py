"""The demonstration finds what it looks for: it would show a leak, and it runs without one."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from usercontext.sentry import read_reports

DEMO = Path(__file__).resolve().parent.parent / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "demo", module)
        spec.loader.exec_module(module)
        yield module


def report(number: int, username: str | None, address: str) -> dict[str, Any]:
    """A report of an order without a price."""
    user = {"username": username, "ip_address": address}
    return {"user": user, "exception": {"values": [{"type": "KeyError", "value": str(number)}]}}


ADA, NOBODY = "203.0.113.7", "198.51.100.200"


@pytest.mark.parametrize(
    ("reports", "right"),
    [
        pytest.param([report(1001, "ada", ADA)], [True], id="the customer"),
        pytest.param([report(1001, "bob", ADA)], [False], id="somebody else"),
        pytest.param([report(1001, None, ADA)], [False], id="nobody"),
        pytest.param([report(1001, "ada", "6.6.6.6")], [False], id="a forged address"),
        pytest.param([], [False], id="no report"),
        pytest.param([report(1001, "ada", ADA)] * 2, [False], id="reported twice"),
        pytest.param(
            [report(1001, "ada", ADA), report(7, None, NOBODY)], [True, False], id="one too many"
        ),
    ],
)
def test_only_the_customer_is_right(
    demo: Any, reports: list[dict[str, Any]], right: list[bool]
) -> None:
    """A request's one report must name its customer and address; anything else is a mismatch."""
    request = demo.Request("fastapi", "endpoint", "GET", "/orders/1001", 1001, "ada", "ada")
    findings = demo._hold_against([request], reports)
    assert [finding.right for finding in findings] == right


def test_a_report_of_nobody_must_not_name_somebody(demo: Any) -> None:
    """A visitor's report that names a customer is what the demonstration is there to find."""
    request = demo.Request("fastapi", "endpoint", "GET", "/orders/1001", 1001, None, None)
    assert not demo._hold_against([request], [report(1001, "ada", NOBODY)])[0].right
    assert demo._hold_against([request], [report(1001, None, NOBODY)])[0].right


def test_every_connection_is_shared(demo: Any) -> None:
    """On each connection customers and nobody take turns, and nobody follows large bodies."""
    for conversation in demo.Plan(1).conversations("fastapi", 36):
        assert len({request.sender for request in conversation}) > 2
        large = [i for i, request in enumerate(conversation) if request.body]
        assert large
        assert all(conversation[i + 1].sender is None for i in large)


def test_a_taken_port_is_named_with_its_option() -> None:
    """Who asks for a port that is taken reads which one it is, and what to write instead."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_demo("--port-fastapi", str(port))
    assert done.returncode == 2
    assert f"port {port} is not free" in done.stderr
    assert "--port-fastapi" in done.stderr


def test_it_runs_without_a_mismatch() -> None:
    """On uvicorn and gunicorn every report names its own user; the output is plain in a pipe."""
    for needed in ("fastapi", "flask", "gunicorn", "httpx", "uvicorn"):
        pytest.importorskip(needed)
    done = run_demo("--requests", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("reports, 0 mismatches\n")
    assert "\x1b" not in done.stdout
    kept = re.search(r"inspect (/.*reports\.db)$", done.stdout, re.MULTILINE)
    assert kept is not None
    assert len(list(read_reports(kept[1]))) > 12
    shutil.rmtree(Path(kept[1]).parent)


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as people do."""
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
