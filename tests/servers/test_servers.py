"""The harness itself: what cannot run says why, and what runs is what was started."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.servers.frameworks import FRAMEWORKS, Framework
from tests.servers.scenarios import SCENARIOS
from tests.servers.servers import SERVERS, Running, Server, ServerFailedError

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


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=lambda one: one.name)
def test_features_are_asked_for(framework: Framework) -> None:
    """A framework has no feature that no scenario needs: it would be a slip of the pen."""
    assert framework.features <= frozenset().union(*(one.needs for one in SCENARIOS.values()))


@pytest.mark.parametrize("one", [*FRAMEWORKS.values(), *SERVERS.values()], ids=lambda one: one.name)
def test_limits_name_what_there_is(one: Framework | Server) -> None:
    """A limit keeps nothing back by a name that nothing has."""
    for limit in one.limits:
        assert limit.scenarios <= SCENARIOS.keys()
        assert limit.others <= SERVERS.keys() | FRAMEWORKS.keys()
