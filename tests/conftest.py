"""What every test shares: a fresh process, how hypothesis looks for cases, which tests can run."""

from __future__ import annotations

import ast
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from usercontext import testing
from usercontext.asgi import UserContextMiddleware
from usercontext.exceptions import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ROOT = Path(__file__).parent.parent

# No deadline and no database: a slow machine is not a failure, and a run leaves nothing behind.
settings.register_profile(
    "default",
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


_CALL = UserContextMiddleware.__call__


@pytest.fixture(autouse=True)
def nothing_configured() -> Iterator[None]:
    """Have every test start and end with nothing configured, and nothing warned about."""
    testing.reset()
    yield
    testing.reset()


@pytest.fixture(autouse=True)
def _our_own_method() -> Iterator[None]:
    """Undo what sentry-sdk does, once it was used, to every class added to Starlette."""
    yield
    UserContextMiddleware.__call__ = _CALL  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _no_logger_is_disabled() -> None:
    """Undo what a package does that configures logging when it is imported, as Kent does.

    `dictConfig()` disables every logger that was there before, unless it is told to leave them.
    """
    logging.disable(logging.NOTSET)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


if os.environ.get("USERCONTEXT_WITHOUT_OPTIONAL"):
    # In some environments of tox what imports a package that is absent there is left out.
    def pytest_ignore_collect(collection_path: Path) -> bool | None:
        """Leave out the tests that need an optional package, and folders whose conftest does."""
        source = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
        is_code = source.suffix == ".py" and source.is_file()
        return True if is_code and any(map(is_missing, imports_of(source))) else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
        """Skip the tests that reach for an optional package, as a user without it could not."""
        try:
            yield
        except MissingDependencyError as error:
            pytest.skip(f"{item.name} needs {error.package}")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports when it is loaded."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_missing(module: str) -> bool:
    """Tell whether a module, or what a module of our own tests needs, is not installed."""
    package = module.partition(".")[0]
    if package == "tests":
        source = ROOT / f"{module.replace('.', '/')}.py"
        return source.is_file() and any(map(is_missing, imports_of(source)))
    try:
        return bool(module) and find_spec(module) is None
    except ModuleNotFoundError:  # not even what it is a part of
        return True
