"""How long to wait after a failure, and how fast to go on: rules, and small fleets on a clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.sentry.delivery.backoff import Backoff
from usercontext.sentry.delivery.pace import Pace

if TYPE_CHECKING:
    from types import ModuleType

FLEET = Path(__file__).parents[2] / "benchmarks" / "fleet.py"
chances = st.floats(0.0, 1.0)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 100), chances)
def test_backoff(failures: int, chance: float) -> None:
    """The wait doubles up to the longest, of which chance takes away a half at most."""
    backoff = Backoff(1.0, 20.0, chance=lambda: chance)
    waits = [backoff.next() for _ in range(failures)]
    whole = [min(20.0, 2.0**number) for number in range(failures)]
    assert all(0.5 * most <= wait <= most for wait, most in zip(waits, whole, strict=True))
    backoff.reset()
    assert backoff.next() <= 1.0


def test_no_outage_no_pace() -> None:
    """As long as the server answers, events follow each other at once."""
    assert Pace(lambda: 1000).succeeded() == 0.0


def test_as_fast_as_events_come() -> None:
    """After an outage events go somewhat faster than they come, until none is left."""
    clock, came = Clock(), [1]
    pace = Pace(lambda: came[0], clock=clock, chance=lambda: 0.5)
    pace.failed()
    clock.now, came[0] = clock.now + 600.0, 61
    assert pace.succeeded() == pytest.approx(10.0 / 1.6)
    pace.caught_up()
    assert pace.succeeded() == 0.0


def test_who_reports_seldom_tries_seldom() -> None:
    """Who has one event in ten minutes tries again in about that time, and in five at most."""
    clock = Clock()
    pace = Pace(lambda: 1, clock=clock, chance=lambda: 0.5)
    assert pace.failed() < 1.0
    clock.now += 100.0
    assert pace.failed() == 100.0
    clock.now += 10_000.0
    assert pace.failed() == 300.0


def test_who_forwards_for_others_is_not_slowed_down() -> None:
    """A forwarder without events of its own backs off, and then goes on as fast as it can."""
    clock = Clock()
    pace = Pace(lambda: 0, clock=clock)
    clock.now += 0.0 * pace.failed() + 600.0
    assert pace.failed() <= 20.0
    assert pace.succeeded() == 0.0


def test_slow_answers() -> None:
    """What queues up while a server is slow is not sent all at once either."""
    clock, came = Clock(), [100]
    pace = Pace(lambda: came[0], clock=clock, chance=lambda: 0.5)
    pace.succeeded(3.0)
    clock.now, came[0] = clock.now + 10.0, 110
    assert pace.succeeded(0.01) == pytest.approx(1.0 / 1.6)


# --- fleets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet() -> ModuleType:
    """The simulation of fleets."""
    if not FLEET.exists():
        pytest.skip("the benchmarks are not here")
    spec = importlib.util.spec_from_file_location("fleet", FLEET)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fleet"] = module  # as its classes are looked up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["fleet"]
    return module


@pytest.mark.parametrize("trouble", ["refuses", "hangs", "slow"])
def test_no_thundering_herd(fleet: Any, trouble: str) -> None:
    """After an outage a fleet sends at most twice as much as ever, and nobody starves."""
    scenario = fleet.Scenario(40, 0.5, seconds=900.0, trouble=trouble, begin=200.0, end=400.0)
    told = fleet.Fleet(scenario).run()
    assert told.peak <= 2.0
    assert told.fairness >= 0.5


def test_a_herd_without_pace(fleet: Any) -> None:
    """The simulation shows a herd where there is one."""
    scenario = fleet.Scenario(
        40, 0.5, seconds=900.0, trouble="refuses", begin=200.0, end=400.0, paced=False
    )
    assert fleet.Fleet(scenario).run().peak > 5.0


def test_nobody_starves_at_a_limit(fleet: Any) -> None:
    """Where the server takes half, each sender gets its part of that through."""
    told = fleet.Fleet(fleet.Scenario(40, 0.5, seconds=1800.0, quota=0.5)).run()
    assert told.fairness >= 0.5
    assert told.peak <= 2.0


def test_one_looping_user(fleet: Any) -> None:
    """A user in a loop costs the others nothing."""
    told = fleet.Fleet(fleet.Scenario(40, 0.5, seconds=300.0, begin=100.0, looping=True)).run()
    assert told.discarded.keys() == {"max_per_user"}
    assert told.peak <= 1.5


def test_deterministic(fleet: Any) -> None:
    """The same scenario ends in the same way."""
    scenario = fleet.Scenario(10, 0.5, seconds=300.0, trouble="hangs", begin=50.0, end=100.0)
    one, other = (fleet.Fleet(scenario).run().requests for _ in range(2))
    assert one == other
