"""The page `docs/support.md`, written from the results of a whole run of the matrix."""

from __future__ import annotations

import platform
import re
import time
from typing import TYPE_CHECKING

from tests.servers.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.servers.frameworks import Framework
    from tests.servers.results import Result
    from tests.servers.servers import Server

__all__ = ["Notes", "newest_in", "page", "part_in", "replaced", "write_newer", "write_page"]

INTERFACES = {
    "asgi": "ASGI",
    "wsgi": "WSGI",
    "": "Servers of their own",
}

HEAD = """\
# Support

This page is written by `tox run -e matrix`, which starts every framework below on every server that
can run it, asks it what browsers, proxies and attackers ask, and looks at who is seen: in the
response, in what runs around and after it, in the reports, and outside of our middleware.
{run}

A cell says what came of all [scenarios](#what-is-tried) that fit the framework:

- `ok`: every one passed.
- `n leaks`: a user was seen who had no business there. There must be none.
- `n lost`: nobody was seen where there was a user; `n stale`: the one before the last `set_user()`.
- `n failed`: something else was not as it should be.
- `cannot`: this server and this framework do not go together; the note says why.
- `not run`: the package is not there on the machine that wrote this page.
- A number in parentheses leads to a note: what the server or the framework cannot do, with or
  without us.
"""

TAIL = """\
## Nobody, on purpose

Some places see nobody although a request has a user, on every pair alike:

- A thread that you start yourself, and a function that is handed to an executor, have no request:
  a pool's thread outlives the request that started it, and would name its user for good. Hand
  over `usercontext.bind(function)`. `asyncio.to_thread` and the frameworks' own thread pools need
  nothing.
- A lifespan, an import and a script have no request either: `usercontext.isolation_scope()` is for
  them.
- A generator that a framework abandons in a reference cycle ends where garbage is collected. It
  sees its own user or nobody then, and the request in which that happens keeps its own.

## To run it

```console
$ sh scripts/test -e matrix                     # all of it; run it again to go on
$ sh scripts/test -e matrix -- flask            # only pairs whose name holds "flask"
$ sh scripts/test -e matrix -- --again          # what failed, once more
```

Results are kept in `.matrix/` as long as neither our code nor an installed package changes. The
run ends with 0 if everything passed, with 1 if a scenario failed, with 2 if a pair could not be
run. What `sh scripts/test` runs is a slice of it: Starlette and Flask on every server, all other
frameworks on one, without the longest scenario.
"""


NEWER = """\
## With newer packages

Some need newer packages than the other tests agree on, or a newer Python: `tox run -e matrix-newer`
runs them by themselves, with the same scenarios.

<!-- newer -->
{newer}<!-- end of newer -->
"""

JOBS = """\
## Background jobs

`tox run -e jobs,jobs-oldest,jobs-arq,jobs-arq-oldest,jobs-django,jobs-table` runs real workers of
every queue, with its newest release and the oldest that we support, on a Redis, a PostgreSQL or an
SQLite of their own. Each worker was started where somebody is the user that no job may see. The
columns say who enqueued the job, and what happened to it; a cell says what came of it, in the words
above.

<!-- jobs -->
{jobs}<!-- end of jobs -->
"""

NEWEST = """\
## Newest releases

`tox run -e newest` installs the newest release of every library that we adapt, and its pre-release
where that is newer, and runs the library's tests: `ok` with their number, or what failed. What
`sh scripts/test` runs leaves this out.

<!-- newest -->
{newest}<!-- end of newest -->
"""

SUITES = """\
## The frameworks' own tests

`tox run -e suites` runs the test suites that frameworks release with their sources, with every app
served through our middleware, and compares the outcome of each test with the one without us. Two
numbers are of two runs: behind the plain middleware with a resolver, and with everything that a
request can be asked for. What `sh scripts/test` runs leaves this out.

<!-- suites -->
{suites}<!-- end of suites -->
"""


CALLS = """\
## Calls

Tools, RPCs, operations, events and invocations, each library in its oldest and its newest version,
over each transport: which user a call has. `tox run -e calls-matrix` runs what a Python has
installed, as some libraries exclude each other, and makes the table of all that was run. `leak` is
another user, `lost` nobody in the place of a user, `stale` a user where there is nobody.

<!-- calls -->
{calls}<!-- end of calls -->
"""


class Notes:
    """Numbers the notes in the order in which they are met.

    Args:
        prefix: what stands before each number, where a page has several lists of notes.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._numbers: dict[str, int] = {}

    def mark(self, notes: Iterable[str]) -> str:
        """Return the numbers of these notes, as they stand behind a word."""
        numbers = [self._numbers.setdefault(note, len(self._numbers) + 1) for note in notes]
        return "".join(f" ({self._prefix}{number})" for number in sorted(numbers))

    def lines(self) -> list[str]:
        """Return all notes as a list."""
        mark = "- {prefix}{number}: {note}" if self._prefix else "{number}. {note}"
        return [
            mark.format(prefix=self._prefix, number=number, note=note)
            for note, number in self._numbers.items()
        ]


def write_page(
    path: Path, pairs: Sequence[tuple[Framework, Server]], results: Mapping[str, Result]
) -> None:
    """Write the page from the results, which are known by `<framework>-<server>`."""
    before = path.read_text() if path.exists() else ""
    parts = ("newer", "jobs", "newest", "suites", "calls")
    kept = {name: part_in(before, name) for name in parts}
    path.write_text(page(pairs, results, **kept))


def write_newer(
    path: Path, pairs: Sequence[tuple[Framework, Server]], results: Mapping[str, Result]
) -> None:
    """Write the page's part on what needs newer packages; the rest stays."""
    text, notes = path.read_text(), Notes("n")
    parts = [_tables(pairs, results, notes, level="###")]
    if lines := notes.lines():
        parts.append("\n".join(lines) + "\n")
    part = "\n".join([f"{_run(results)}\n", *parts])
    path.write_text(replaced(text, "newer", part))


def replaced(text: str, name: str, part: str) -> str:
    """Return a page's text with another part in the place of the last one."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    return text.replace(f"{begin}{part_in(text, name)}{end}", f"{begin}{part}{end}")


def part_in(text: str, name: str) -> str:
    """Return a part of a page that something else has written."""
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->\n")[0]


def newest_in(text: str) -> str:
    """Return what `tests/newest.py` wrote into a page."""
    return part_in(text, "newest")


def page(
    pairs: Sequence[tuple[Framework, Server]],
    results: Mapping[str, Result],
    *,
    newer: str = "",
    jobs: str = "",
    newest: str = "",
    suites: str = "",
    calls: str = "",
) -> str:
    """Return the page's text, with the parts that are kept."""
    notes = Notes()
    parts = [HEAD.format(run=_run(results)), _tables(pairs, results, notes)]
    if lines := notes.lines():
        parts.append("## Notes\n\n" + "\n".join(lines) + "\n")
    kept = [
        NEWER.format(newer=newer),
        JOBS.format(jobs=jobs),
        NEWEST.format(newest=newest),
        SUITES.format(suites=suites),
        CALLS.format(calls=calls),
    ]
    return "\n".join([*parts, *kept, TAIL, _tried()])


def _tables(
    pairs: Sequence[tuple[Framework, Server]],
    results: Mapping[str, Result],
    notes: Notes,
    level: str = "##",
) -> str:
    parts = []
    for interface, title in INTERFACES.items():
        chosen = [(f, s) for f, s in pairs if _group(f) == interface]
        if chosen:
            parts.append(f"{level} {title}\n\n{_table(chosen, results, notes)}\n")
    return "\n".join(parts)


def _group(framework: Framework) -> str:
    return framework.interface if framework.interface in INTERFACES else ""


def _run(results: Mapping[str, Result]) -> str:
    """Return when and where the results were made, and how many they are."""
    kinds = ("leak", "leaks"), ("lost", "lost"), ("stale", "stale"), ("failed", "failed")
    made = f"{time.strftime('%Y-%m-%d')}, {platform.python_implementation()}"
    pairs = sum(not result.absent for result in results.values())
    scenarios = sum(result.passed + result.kinds.total() for result in results.values())
    verdict = ", ".join(
        f"{sum(result.kinds[kind] for result in results.values())} {word}" for kind, word in kinds
    )
    python = platform.python_version()
    return f"Last run: {made} {python}, {pairs} pairs, {scenarios} runs of a scenario: {verdict}."


def _table(
    pairs: Sequence[tuple[Framework, Server]], results: Mapping[str, Result], notes: Notes
) -> str:
    frameworks = list(dict.fromkeys(framework for framework, _ in pairs))
    servers = list(dict.fromkeys(server for _, server in pairs))
    rows = [
        ["", "version", *(framework.name for framework in frameworks)],
        ["---"] * (len(frameworks) + 2),
        ["version", "", *(framework.version() for framework in frameworks)],
        ["scenarios", "", *(str(_fitting(framework)) for framework in frameworks)],
    ]
    for server in servers:
        name = server.name + notes.mark([server.note] if server.note else [])
        cells = [_cell(results.get(f"{one.name}-{server.name}"), notes) for one in frameworks]
        rows.append([name, server.version(), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _fitting(framework: Framework) -> int:
    return sum(scenario.fits(framework) for scenario in SCENARIOS.values())


def _cell(result: Result | None, notes: Notes) -> str:
    if result is None:
        return ""
    if result.absent:
        return "not run"
    reasons: dict[str, list[str]] = {}
    for scenario, reason in result.cannot.items():
        reasons.setdefault(reason, []).append(scenario.replace("_", " "))
    word = result.summary()
    if word == "cannot":
        return word + notes.mark(reasons)
    limits = [f"{reason} Left out: {'; '.join(sorted(s))}." for reason, s in reasons.items()]
    return word + notes.mark(limits)


def _tried() -> str:
    # Without the numbers that some have in the list of others' defects.
    facts = (re.sub(r" \(\d+\)", "", s.run.__doc__ or "") for s in SCENARIOS.values())
    return "## What is tried\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n"
