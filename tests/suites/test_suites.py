"""The frameworks' own tests, with us and without: what differs is named, and the table is kept."""

from __future__ import annotations

from tests.servers.support import page, part_in
from tests.suites import run


def seen(**outcomes: str) -> dict[str, object]:
    """Return what the plugin writes of a run."""
    return {"outcomes": outcomes, "requests": {"http": 2, "websocket": 1}, "reports": 1}


def test_what_comes_out_otherwise_is_named() -> None:
    """A test that fails, passes or is missing behind us differs; the same failure does not."""
    bare = seen(one="passed", two="failed", three="failed", four="passed")
    served = seen(one="failed", two="failed", three="passed")
    assert run.differing(bare, served) == {
        "four": "passed -> absent",
        "one": "passed -> failed",
        "three": "failed -> passed",
    }


def test_the_table_counts_each_run() -> None:
    """Outcomes are of the run without us; requests and reports of the two behind us."""
    row = run.Row("flask", "3.1", dict.fromkeys(run.SERVED, seen(one="passed", two="passed")))
    assert row.cells() == ["flask 3.1", "2 passed", "3 / 3", "1 / 1", "0"]


def test_the_table_is_kept_by_the_page() -> None:
    """A later run of the matrix writes the page around it."""
    text = page([], {}, suites="| suite |\n")
    assert part_in(text, "suites") == "| suite |\n"
    assert part_in(run.PAGE.read_text(), "suites")
