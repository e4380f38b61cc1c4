"""Starts each framework and server pair once, and keeps its tests together."""

from __future__ import annotations

import importlib.util
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

# Before it is imported: its asserts are to say what they saw.
pytest.register_assert_rewrite("tests.servers.scenarios")

from tests.servers.driver import Observer  # noqa: E402
from tests.servers.frameworks import FRAMEWORKS, in_slice  # noqa: E402
from tests.servers.scenarios import Target  # noqa: E402
from tests.servers.servers import SERVERS, Running, ServerFailedError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


class Launcher:
    """Keeps one pair running: the one whose tests are run at the moment."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pair: tuple[str, str] | None = None
        self._target: Target | None = None
        self._failed: dict[tuple[str, str], str] = {}

    def target(self, framework: str, server: str) -> Target:
        """Return this pair, started if it was not the last one asked for."""
        pair = framework, server
        if pair in self._failed:
            pytest.fail(self._failed[pair])
        if self._pair != pair:
            self.stop()
            try:
                self._target = self._start(framework, server)
            except ServerFailedError as error:
                self._failed[pair] = str(error)
                raise
            self._pair = pair
        assert self._target is not None
        return self._target

    def stop(self) -> None:
        """Stop what runs."""
        self._pair = None
        self._stack.close()

    def _start(self, framework: str, server: str) -> Target:
        # A short path: those of Unix sockets are limited to about 100 bytes.
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="matrix")))
        observer = Observer(folder)
        self._stack.callback(observer.close)
        reports = folder / "reports.db"
        environment = {"OBSERVER": observer.address, "REPORTS": f"sqlite:///{reports}"}
        running = Running(SERVERS[server], f"apps.{framework}_app:application", folder, environment)
        self._stack.enter_context(running)
        return Target(running, FRAMEWORKS[framework], observer, reports)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Start pairs as they are asked for; leave none behind, even when ended from outside."""
    launcher = Launcher()
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("stopped", 143))
    yield launcher
    signal.signal(signal.SIGTERM, before)
    launcher.stop()


@pytest.fixture
def target(request: pytest.FixtureRequest, launcher: Launcher) -> Target:
    """Return a running pair, or skip where it cannot run."""
    framework, server = request.param
    if reason := SERVERS[server].missing():
        pytest.skip(reason)
    absent = [n for n in FRAMEWORKS[framework].needs if importlib.util.find_spec(n) is None]
    if absent:
        pytest.skip(f"{framework} needs {', '.join(absent)}, not installed")
    # Before it is started: there are pairs that cannot be.
    scenario = request.node.callspec.params.get("scenario")
    if scenario and (reason := scenario.limit(FRAMEWORKS[framework], SERVERS[server])):
        pytest.skip(reason)
    return launcher.target(framework, server)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bring the tests of each pair together, in whatever order they were shuffled."""
    if not _chosen(config):
        _take_slice(config, items)
    places = [place for place, item in enumerate(items) if _pair(item)]
    ordered = sorted((items[place] for place in places), key=_pair)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _chosen(config: pytest.Config) -> bool:
    """Return whether whoever runs the tests has said which."""
    named = any("::" in argument for argument in config.args)
    return bool(named or config.option.keyword or os.environ.get("MATRIX"))


def _take_slice(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = {
        item
        for item in items
        if (pair := _pair(item)) and not in_slice(*pair, item.callspec.params["scenario"].name)  # type: ignore[attr-defined]
    }
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


def _pair(item: pytest.Item) -> tuple[str, str] | tuple[()]:
    callspec = getattr(item, "callspec", None)
    pair = callspec.params.get("target") if callspec else None
    # Other tests have targets of their own.
    return pair if isinstance(pair, tuple) and pair[0] in FRAMEWORKS else ()
