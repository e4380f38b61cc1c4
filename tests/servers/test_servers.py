"""The harness itself: what cannot run says why, and what runs is what was started."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.servers.servers import Running, Server, ServerFailedError

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = Server("broken", "wsgi", "no_such_server {app} {port}", ("sys",))


def test_a_missing_program_is_named() -> None:
    """A server that is not installed says what it needs."""
    server = replace(BROKEN, needs=("sys", "no_such_package"))
    assert server.missing() == "broken needs no_such_package, not installed"


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """A server that cannot start fails at once, with what it printed."""
    with pytest.raises(ServerFailedError, match="no_such_server"), Running(BROKEN, "app", tmp_path):
        pass
