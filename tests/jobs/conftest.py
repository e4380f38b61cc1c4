"""One Redis for all queues, and one process-wide configuration for each module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before they are imported: their asserts are to say what they saw.
pytest.register_assert_rewrite("tests.jobs.promises", "tests.jobs.notes")

from tests.conftest import imports_of, is_missing  # noqa: E402
from tests.jobs.processes import redis_server  # noqa: E402
from tests.jobs.scenarios import properties_of  # noqa: E402
from usercontext.testing import reset  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


class _Skipped(pytest.Module):
    """A module of tests for a queue that is not installed here."""

    def collect(self) -> list[pytest.Item]:
        """Say which package is missing."""
        missing = sorted(filter(is_missing, imports_of(self.path)))
        pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip the tests of a queue whose package is absent: they need different Redis clients."""
    if any(map(is_missing, imports_of(module_path))):
        return _Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture(autouse=True)
def nothing_configured() -> None:
    """Leave what is configured: here that is done once for each module, by its app."""


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Redis that runs for these tests alone."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def environ(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Set what the apps and their workers read, and undo `init()` afterwards."""
    variables = {
        "JOBS_REDIS": redis_url,
        "JOBS_DSN": f"sqlite:///{tmp_path_factory.mktemp('reports') / 'reports.db'}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables
    reset()


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark is for."""
    config.addinivalue_line(
        "markers", "scenario(*names): the scenarios of `tests.jobs.scenarios` that a test shows"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what the collector says of connections, which clients of queues leave to it."""
    ignored = pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        # What queues say of each other and of their Redis client.
        "ignore:Call to deprecated:DeprecationWarning",
        "ignore:MemcachedBackend:ImportWarning",
    )
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(ignored)
            item.user_properties.extend(properties_of(item))
