"""granian serves RSGI unless told otherwise: an app of ours says which interface to choose."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("granian") is None, reason="granian is not installed"
)

APPS = {
    "asgi": "async def app(scope, receive, send): pass",
    "wsgi": "def app(environ, start_response): pass",
}


@pytest.mark.parametrize("kind", APPS)
def test_the_interface_is_named(kind: str, tmp_path: Path) -> None:
    """The server ends as it starts, and what it prints is what to write."""
    ours = f"from usercontext.{kind} import UserContextMiddleware"
    served = f"{ours}\n{APPS[kind]}\napp = UserContextMiddleware(app)\n"
    (tmp_path / "served.py").write_text(served)
    command = [sys.executable, "-m", "granian", "served:app", "--host", "127.0.0.1", "--port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert f"ConfigurationError: this app is of {kind.upper()}" in done.stderr
    assert f"`granian --interface {kind}`" in done.stderr
