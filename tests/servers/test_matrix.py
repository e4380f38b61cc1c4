"""Every scenario on every framework and server that can serve it: no user ever leaks.

Each scenario's docstring in `scenarios` is the fact that its tests show. A plain run takes a slice
of the pairs; `-k` chooses among all of them, and the variable MATRIX names one alone.
"""

from __future__ import annotations

import os

import pytest

from tests.servers.frameworks import FRAMEWORKS
from tests.servers.scenarios import SCENARIOS, Scenario, Target
from tests.servers.servers import SERVERS

PAIRS = [
    (framework, server)
    for framework in FRAMEWORKS.values()
    for server in SERVERS.values()
    if framework.interface == server.interface
]
ALONE = os.environ.get("MATRIX")
CASES = [
    pytest.param(
        (framework.name, server.name), scenario, id=f"{framework.name}-{server.name}-{name}"
    )
    for framework, server in PAIRS
    if ALONE in {None, f"{framework.name}-{server.name}"}
    for name, scenario in SCENARIOS.items()
    if scenario.fits(framework)
]


@pytest.mark.parametrize(("target", "scenario"), CASES, indirect=["target"])
def test_scenario(target: Target, scenario: Scenario) -> None:
    """The scenario's fact holds on this framework and server."""
    if reason := scenario.limit(target.framework, target.server):
        pytest.skip(reason)
    scenario.run(target)
