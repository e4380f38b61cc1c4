"""Importing optional packages: what is wrong where one cannot be imported, and what mends it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usercontext.exceptions import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["importing"]


@contextmanager
def importing(package: str, extra: str, *, purpose: str) -> Iterator[None]:
    """Say of an import in the block what the app's author needs to know where it fails.

    Args:
        package: the distribution that is imported from, as named on PyPI.
        extra: the extra of usercontext that brings it.
        purpose: what of ours needs it.

    Raises:
        MissingDependencyError: the package is not installed, or the installed one lacks what is
            imported; its cause is the ImportError.
    """
    try:
        yield
    except ImportError as error:
        problem = _problem(package, extra, error)
        raise MissingDependencyError(package, extra, purpose=purpose, problem=problem) from error


def _problem(package: str, extra: str, error: ImportError) -> str | None:
    """Return what is wrong with the installed package; None where there is none."""
    from importlib import metadata  # 20 modules, and only a failure needs them

    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    supported = _supported(package)
    return (
        f"{package} {version} is installed, but its import failed ({error.msg}). "
        f"{f'Supported is {supported}: install' if supported else 'Install'} what is missing, or "
        f'another version: `pip install "usercontext[{extra}]" "{package}!={version}"`'
    )


def _supported(package: str) -> str | None:
    """Return the versions that our extras ask for, such as `ddtrace>=3.0`."""
    from importlib import metadata

    try:
        requirements = metadata.requires("usercontext") or ()
    except metadata.PackageNotFoundError:  # our source alone, on the path
        return None
    asked = re.compile(rf"{re.escape(package)}\s*[<>=!~]", re.IGNORECASE)
    found = (one.partition(";")[0].strip() for one in requirements if asked.match(one))
    return next(found, None)
