"""The watch over the newest versions: what pytest said becomes a cell of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import newest
from tests.servers.support import newest_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("....\n4 passed in 1.2s", "ok (4)"),
        ("..ss\n2 passed, 2 skipped in 1.2s", "ok (2)"),
        ("ss\n2 skipped in 0.1s", "not run"),
        (
            "FAILED tests/a.py::test_b[x-y] - assert 0\n1 failed, 3 passed in 2s",
            "1 failed, first test_b[x-y]",
        ),
        ("ERROR tests/a.py - ImportError\n1 error in 2s", "1 failed, first tests/a.py"),
        ("", "all failed, first "),
    ],
)
def test_what_pytest_said(output: str, said: str) -> None:
    """Passed tests are counted, and what failed is named."""
    assert newest.summary(output) == said


def test_every_test_that_is_named_is_there() -> None:
    """One that moves would be a library that nobody watches."""
    named = {one for each in newest.LIBRARIES.values() for one in each if one.startswith("tests/")}
    assert [one for one in sorted(named) if not (newest.ROOT / one).is_file()] == []


def test_what_our_extras_ask_for_is_the_oldest() -> None:
    """An extra of an extra is none, and a library without one has none."""
    assert newest.oldest_of("sentry-sdk") == "2.54"
    assert newest.oldest_of("pyjwt") == "2.13"
    assert newest.oldest_of("nothing") == ""


def test_the_table_stands_where_the_last_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what writes the rest of the page keeps it."""
    page = tmp_path / "support.md"
    page.write_text("# Support\n<!-- newest -->\nlast week\n<!-- end of newest -->\nrest\n")
    monkeypatch.setattr(newest, "PAGE", page)
    row = newest.Row(
        "rq", "3.0", {"3.1": "ok (4)", "4.0a1": "1 failed, first test_x"}, "3.1", "4.0a1"
    )
    newest.write([row])
    text = page.read_text()
    assert "| rq | 3.0 | 3.1: ok (4) | 4.0a1: 1 failed, first test_x |" in newest_in(text)
    assert "last week" not in text
    assert text.endswith("rest\n")
