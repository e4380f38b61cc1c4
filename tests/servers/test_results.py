"""The matrix' results: what pytest wrote of a pair becomes a word in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.frameworks import FRAMEWORKS
from tests.servers.results import Result, read_result
from tests.servers.run_matrix import main
from tests.servers.servers import SERVERS
from tests.servers.support import page

if TYPE_CHECKING:
    from pathlib import Path

PASSED = '<testcase name="test_scenario[a-b-first]" time="1.5"/>'
LEAK = "tests.servers.users.WrongUserError: leak: expected None, saw 'user-1'"
LOST = LEAK.replace("leak", "lost")


def _broken(kind: str, message: str) -> str:
    return f'<testcase name="test_scenario[a-b-{kind}]"><{kind} message="{message}"/></testcase>'


def _read(folder: Path, *cases: str) -> Result:
    path = folder / "a-b.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return read_result(path, "a-b")


@pytest.mark.parametrize(
    ("cases", "summary"),
    [
        pytest.param((PASSED, PASSED), "ok", id="all passed"),
        pytest.param((PASSED, _broken("failure", LEAK)), "1 leak", id="a leak"),
        pytest.param((_broken("failure", LOST),) * 2, "2 lost", id="losses"),
        pytest.param((PASSED, _broken("failure", "assert 1 == 2")), "1 failed", id="no user's"),
        pytest.param((_broken("error", "ended with 1"),), "1 failed", id="the server"),
        pytest.param((), "1 failed", id="nothing was run"),
        pytest.param((PASSED, _broken("skipped", "it cannot")), "ok", id="a limit"),
        pytest.param((_broken("skipped", "it cannot"),), "cannot", id="limits alone"),
        pytest.param(
            (_broken("skipped", "b needs c, not installed"),),
            "not run: b needs c, not installed",
            id="not installed",
        ),
    ],
)
def test_summaries(tmp_path: Path, cases: tuple[str, ...], summary: str) -> None:
    """A pair's result is said in a word or two."""
    assert _read(tmp_path, *cases).summary() == summary


def test_limits_are_kept(tmp_path: Path) -> None:
    """A scenario that cannot be run is known by its name, with the reason."""
    result = _read(tmp_path, PASSED, _broken("skipped", "it cannot"))
    assert result.cannot == {"skipped": "it cannot"}


def test_a_pair_whose_tests_did_not_end_has_failed(tmp_path: Path) -> None:
    """Without a result there is a failure, and where to look."""
    result = read_result(tmp_path / "a-b.xml", "a-b")
    assert result.failed
    assert str(tmp_path / "log") in result.failures[0]


def test_the_page_names_limits_once() -> None:
    """The same reason is one note, however many cells point to it."""
    pairs = [(FRAMEWORKS["flask"], SERVERS[name]) for name in ("waitress", "cheroot")]
    results = {
        f"flask-{server.name}": Result("", passed=1, cannot={"a_file": "It has none."})
        for _, server in pairs
    }
    text = page(pairs, results)
    assert text.count("It has none. Left out: a file.") == 1
    assert text.count("| ok (1) |") == 2


def test_a_pair_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no pair has is an error, not an empty run."""
    with pytest.raises(SystemExit):
        main(["no-such-pair"])
    assert "no pair's name holds 'no-such-pair'" in capsys.readouterr().err
