"""Tests of a library that is not installed here are skipped: some exclude each other."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

# Before it is imported: its asserts are to say what they saw.
pytest.register_assert_rewrite("tests.calls.promises", "tests.calls.graphql_promises")

import usercontext  # noqa: E402
from tests.conftest import imports_of, is_missing  # noqa: E402
from usercontext.testing import RecordingClient  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Skipped(pytest.Module):
    """A module of tests for a library that is not installed here."""

    def collect(self) -> list[pytest.Item]:
        """Say which package is missing."""
        missing = sorted(filter(is_missing, imports_of(self.path)))
        pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip the tests of a library whose package is absent."""
    if any(map(is_missing, imports_of(module_path))):
        return _Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """Have what a library leaves to the collector collected in the module that left it."""
    yield
    gc.collect()


@pytest.fixture
def recorder() -> RecordingClient:
    """Take the reports of the process."""
    taken = RecordingClient()
    usercontext.init(None, client=taken)
    return taken
