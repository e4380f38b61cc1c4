"""`usercontext inspect`: what it says, what it needs, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.inspector.running import keep
from usercontext.cli import main

START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from usercontext.cli import main
sys.exit(main(["inspect", *sys.argv[1:]]))
"""


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, which Ctrl-C can end."""
    command = [sys.executable, "-c", START, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def told(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return what the command says once it listens."""
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(4)]
    assert lines[-1] == ["stop", "with", "Ctrl-C"], process.stderr and process.stderr.read()
    return {name: value for name, value, *_ in lines[:-1]}


def stop(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Press Ctrl-C; return what it still says of errors, and its status."""
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    return errors.strip(), process.returncode


def test_a_file(tmp_path: Path) -> None:
    """It says where the pages and the DSN are, and ends with status 0, also while it is watched."""
    path = tmp_path / "reports.db"
    keep(path, user={"id": "7"})
    with start(path, "--port", "0") as process:
        said = told(process)
        assert said["inspecting"] == str(path)
        with httpx.stream("GET", f"{said['pages']}live", trust_env=False) as stream:
            next(stream.iter_lines())
            assert stop(process) == ("stopped", 0)


def test_without_a_file() -> None:
    """Without a file it takes what SDKs send into one of its own, which is gone afterwards."""
    with start("--port", "0", USERCONTEXT_DSN="") as process:
        said = told(process)
        key, place = said["DSN"].removeprefix("http://").split("@")
        event = {"event_id": "a" * 32, "message": "hello"}
        url = f"http://{place.split('/')[0]}/api/1/store/?sentry_key={key}"
        assert httpx.post(url, json=event, trust_env=False).status_code == 200
        file = said["inspecting"]
        assert Path(file).exists()
        stop(process)
    assert not Path(file).exists()


def test_the_dsn_of_the_app(tmp_path: Path) -> None:
    """What USERCONTEXT_DSN names is shown, also before the app has begun to report."""
    path = tmp_path / "reports.db"
    with start("--port", "0", USERCONTEXT_DSN=f"sqlite:///{path}") as process:
        assert told(process)["inspecting"] == str(path)
        stop(process)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "0.0.0.0"], "reports name people: to listen on 0.0.0.0 set"),
        (["--host", "::"], "reports name people"),
        (["--token", "short"], "the token must be 16 or more"),
        (["https://key@sentry.example/1"], "reports at a server are shown by its own pages"),
        (["/nowhere/reports.db"], "there is no file"),
    ],
)
def test_what_it_refuses(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be, or is not safe, is told with status 2, and what to do instead."""
    monkeypatch.delenv("USERCONTEXT_INSPECT_TOKEN", raising=False)
    assert main(["inspect", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_another_interface(tmp_path: Path) -> None:
    """With a token it listens elsewhere, and the address that it prints has it."""
    token = "0123456789abcdef"
    with start("--port=0", "--host=0.0.0.0", USERCONTEXT_INSPECT_TOKEN=token) as process:
        url = told(process)["pages"]
        assert httpx.get(url.partition("?")[0], trust_env=False).status_code == 401
        assert httpx.get(url, trust_env=False, follow_redirects=True).status_code == 200
        stop(process)


@pytest.mark.parametrize("package", ["jinja2", "starlette", "uvicorn"])
def test_missing_packages(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one of its packages it names the extra."""
    for name in [name for name in sys.modules if name.startswith("usercontext.inspector.")]:
        monkeypatch.delitem(sys.modules, name)
    loaded = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in [package, *loaded]:
        monkeypatch.setitem(sys.modules, name, None)

    assert main(["inspect"]) == 2
    assert 'run `pip install "usercontext[inspector]"`' in capsys.readouterr().err


def test_other_commands_need_none_of_them() -> None:
    """The other commands load no package but ours."""
    code = (
        "import sys; from usercontext.cli import main\n"
        "try: main(['reports', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'jinja2', 'starlette', 'uvicorn', 'httpx'} & set(sys.modules))"
    )
    done: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n")
