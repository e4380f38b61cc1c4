"""The queues' table: what pytest wrote becomes its cells, and no row or scenario is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.jobs import table
from tests.jobs.notes import WrongUserError, assert_seen
from tests.jobs.scenarios import PAIRS, QUEUES, SCENARIOS
from tests.servers.support import Notes, part_in

if TYPE_CHECKING:
    from pathlib import Path

WORKER = '<property name="worker" value="rq 3.0.0 SpawnWorker"/>'
LEAK = "tests.jobs.notes.WrongUserError: leak: expected 'nobody', saw 'ada'"


def written() -> list[list[str]]:
    """Return the cells of the table in the page."""
    part = part_in(table.PAGE.read_text(), "jobs")
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


def row_of(folder: Path, inner: str = "", scenario: str = "killed") -> table.Row:
    """Return what comes of one test."""
    properties = f'{WORKER}<property name="scenario" value="{scenario}"/>'
    case = f"<testcase><properties>{properties}</properties>{inner}</testcase>"
    path = folder / "jobs.xml"
    path.write_text(f"<testsuites><testsuite>{case}</testsuite></testsuites>")
    (row,) = table.rows_of([path])
    return row


def test_the_table_has_every_worker_of_both_versions() -> None:
    """Each queue and kind that is tried stands there as often as its package has versions."""
    head, _, *rows = written()
    assert head == ["queue", "version", "worker", *SCENARIOS]
    for name in QUEUES:
        versions = {row[1] for row in rows if row[0] == name}
        expected = [(queue, kind) for queue, kind in PAIRS if queue == name]
        for version in versions:
            found = [(row[0], row[2]) for row in rows if row[:2] == [name, version]]
            assert found == expected


@pytest.mark.parametrize("queue", QUEUES)
def test_the_queues_pages_share_a_template(queue: str) -> None:
    """Every queue's page answers the same questions in the same order."""
    page = table.ROOT / "docs" / "jobs" / f"{queue.replace('_', '-')}.md"
    assert [line[3:] for line in page.read_text().splitlines() if line.startswith("## ")] == [
        "Install",
        "Enable",
        "What is carried",
        "What is not",
        "When a job fails",
        "Deploy",
    ]


def test_the_table_names_the_newest_and_the_oldest() -> None:
    """One version alone stands there where the newest is the oldest that we support."""
    _, _, *rows = written()
    versions = {name: {row[1] for row in rows if row[0] == name} for name in QUEUES}
    one = {name for name, found in versions.items() if len(found) == 1}
    assert one <= {"rq", "procrastinate"}
    assert all(versions.values())


def test_no_scenario_is_left_out() -> None:
    """Each was tried on each worker, or the page says why it cannot be."""
    _, _, *rows = written()
    cells = {cell.partition(" (")[0] for row in rows for cell in row[3:]}
    assert cells == {"ok", "cannot"}


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("", "ok (q1)"),
        (f'<failure message="{LEAK}"/>', "1 leak (q1)"),
        (f'<failure message="{LEAK.replace("leak", "stale")}"/>', "1 stale (q1)"),
        ('<error message="no server"/>', "1 failed (q1)"),
        ('<skipped message="It has none."/>', "cannot (q1)"),
    ],
)
def test_what_pytest_wrote(tmp_path: Path, inner: str, said: str) -> None:
    """A cell says in a word what came of a scenario, with a note where there is one."""
    texts = row_of(tmp_path, inner).texts(Notes("q"))
    assert texts[:3] == ["rq", "3.0.0", "SpawnWorker"]
    assert texts[3:][list(SCENARIOS).index("killed")] == said


def test_what_was_not_tried(tmp_path: Path) -> None:
    """A scenario without a test is not passed over in silence."""
    texts = row_of(tmp_path).texts(Notes("q"))
    assert texts[3:][list(SCENARIOS).index("fails")] == "not run"


def test_the_page_keeps_its_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes its own part, and ends with 1 if anything failed."""
    page, kept = tmp_path / "support.md", tmp_path / "kept"
    kept.mkdir()
    row_of(kept, f'<failure message="{LEAK}"/>')
    page.write_text("head\n<!-- jobs -->\nlast week\n<!-- end of jobs -->\nrest\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "KEPT", kept)
    assert table.main() == 1
    text = page.read_text()
    assert "| rq | 3.0.0 | SpawnWorker |" in text
    assert "1 workers, 1 runs of a scenario: 1 leaks, 0 lost, 0 stale, 0 failed." in text
    assert text.startswith("head\n")
    assert text.endswith("rest\n")
    assert "last week" not in text


@pytest.mark.parametrize(
    ("found", "expected", "kind"),
    [
        ("nobody", "ada", "lost"),
        ("ada", "nobody", "leak"),
        (["ada", "changed"], ["ada", "ada"], "stale"),
        (["changed", "bob"], ["ada", "ada"], "leak"),
    ],
)
def test_a_wrong_user_is_wrong_in_one_way(
    found: str | list[str], expected: str | list[str], kind: str
) -> None:
    """The worst of them counts."""
    with pytest.raises(WrongUserError, match=f"^{kind}: "):
        assert_seen(found, expected)
