"""What came of one framework and server pair, read from the file that pytest wrote of it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Result", "kind_of", "read_result", "said"]

#: What a `WrongUserError` says first; any other failure is none of these.
_KIND = re.compile(r"WrongUserError: (leak|lost|stale):")
_WORDS = {"leak": ("leak", "leaks"), "lost": ("lost", "lost"), "stale": ("stale", "stale")}


def kind_of(message: str) -> str:
    """Return in which way a test failed, by what it says: `leak`, `lost`, `stale` or `failed`."""
    kind = _KIND.search(message)
    return kind[1] if kind else "failed"


def said(kinds: Counter[str]) -> str:
    """Say how many tests failed in which way."""
    return ", ".join(
        f"{number} {_WORDS.get(kind, (kind, kind))[number > 1]}"
        for kind in ("leak", "lost", "stale", "failed")
        if (number := kinds[kind])
    )


@dataclass
class Result:
    """How many scenarios passed on a pair, and what happened in the others.

    Attributes:
        kinds: how many failed in which way: `leak`, `lost`, `stale` or `failed`.
        failures: a line for each of them.
        cannot: the limits that kept scenarios from being run, by the scenarios' names.
        absent: why the pair could not be run at all.
    """

    name: str
    passed: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)
    absent: str = ""

    @property
    def failed(self) -> bool:
        """Whether any scenario failed."""
        return bool(self.kinds)

    def summary(self) -> str:
        """Say it in a word: `ok`, `cannot`, or how many leaks and losses there were."""
        if self.absent:
            return f"not run: {self.absent}"
        if self.cannot and not self.passed and not self.failed:
            return "cannot"
        return said(self.kinds) or "ok"


def read_result(path: Path, name: str) -> Result:
    """Read a pair's result; without a file, the pair's tests never came to an end."""
    result = Result(name)
    if not path.exists():
        result.kinds["failed"] += 1
        result.failures.append(f"pytest did not end; see {path.with_name('log')}")
        return result
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        result.seconds += float(case.get("time", 0))
        _add(result, case)
    if not (result.passed or result.failed or result.absent or result.cannot):
        result.kinds["failed"] += 1
        result.failures.append("no scenario was run")
    return result


def _add(result: Result, case: ElementTree.Element) -> None:
    scenario = case.get("name", "").partition("[")[2].removesuffix("]")
    scenario = scenario.removeprefix(f"{result.name}-")
    skipped = case.find("skipped")
    broken = [*case.findall("failure"), *case.findall("error")]
    if skipped is not None:
        _add_skipped(result, scenario, skipped.get("message", ""))
    elif broken:
        message = broken[0].get("message", "")
        result.kinds[kind_of(message)] += 1
        result.failures.append(f"{scenario}: {message.strip().splitlines()[0][:200]}")
    else:
        result.passed += 1


def _add_skipped(result: Result, scenario: str, message: str) -> None:
    if message.endswith("not installed"):
        result.absent = message
    else:
        result.cannot[scenario] = message
