"""The version is written once, and the changelog agrees with it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import usercontext
from usercontext._version import __version__

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
KINDS = ["Security", "Removed", "Deprecated", "Added", "Changed", "Fixed"]


def sections() -> list[tuple[str, str]]:
    """Return the changelog's versions, in order, each with its text."""
    parts = re.split(r"^## \[(.+?)\].*$", CHANGELOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_version_is_that_of_the_changelog() -> None:
    """The newest release in the changelog is this version, or this one is yet to be released."""
    (unreleased, changes), *released = sections()
    assert unreleased == "Unreleased"
    assert released[0][0] == __version__ if released else changes.strip()


def test_the_package_has_the_version() -> None:
    """`usercontext.__version__` and the installed distribution name the same version."""
    assert usercontext.__version__ == __version__
    try:
        assert version("usercontext") == __version__
    except PackageNotFoundError:
        pytest.skip("usercontext runs from a checkout, and is not installed")


@pytest.mark.parametrize(("name", "text"), sections(), ids=[name for name, _ in sections()])
def test_changes_are_in_order(name: str, text: str) -> None:
    """The kinds of changes in a section come in the order of Keep a Changelog."""
    kinds = re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
    assert kinds == [kind for kind in KINDS if kind in kinds], name
