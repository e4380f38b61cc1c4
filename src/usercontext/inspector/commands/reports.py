"""`usercontext reports PATH`: the reports of a file, one a line."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from usercontext.inspector import report as shown
from usercontext.inspector.commands.arguments import add_path, add_user, count, path_of, since
from usercontext.inspector.commands.one_report import print_report
from usercontext.inspector.commands.terminal import Paint, local_time
from usercontext.inspector.selection import Selection, kind_of_file, select_reports
from usercontext.sentry.delivery.reading import follow_reports

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from usercontext.types import Event

__all__ = ["add_reports"]

_POLL_SECONDS = 0.5
_SHORT_ID = 8


class _Row(NamedTuple):
    """What the table shows of a report."""

    time: str
    level: str
    user: str
    username: str
    address: str
    what: str
    where: str
    event: str


_HEADINGS = _Row("TIME", "LEVEL", "USER", "USERNAME", "ADDRESS", "WHAT", "WHERE", "EVENT")
_WIDTHS = (19, 7, 24, 16, 15, 48, 40, 32)


def add_reports(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "reports",
        help="show the reports kept in an SQLite file",
        description='Show the reports that a DSN like "sqlite:///reports.db" keeps, oldest first.',
    )
    add_path(parser)
    add_user(parser)
    parser.add_argument(
        "--since", metavar="AGE", type=since, help="only what happened since: 30m, 2h, 7d, a time"
    )
    parser.add_argument("--level", choices=shown.LEVELS, help="only of this level, or a worse one")
    parser.add_argument("--limit", metavar="N", type=count, help="only the newest N")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--verbose", action="store_true", help="each with traceback and request")
    form.add_argument("--json", action="store_true", help="one report a line, as JSON")
    parser.add_argument("--follow", action="store_true", help="go on showing new ones")
    parser.set_defaults(command=_reports)


def _reports(options: argparse.Namespace) -> None:
    path = path_of(options)
    if kind_of_file(path) == "outbox":
        print(
            "these wait in an outbox for their server: see `usercontext outbox status`",
            file=sys.stderr,
        )
    mark = follow_reports(path)[1]
    selection = Selection(options.user, options.since, options.level, options.limit, mark)
    reports = select_reports(path, selection)
    show = _form(options)
    show(reports)
    if options.follow:
        with suppress(KeyboardInterrupt):  # The way to end it.
            _follow(path, mark, selection, show)
    sys.stdout.flush()


def _form(options: argparse.Namespace) -> Callable[[Iterable[Event]], None]:
    if options.json:
        return _show_json
    return _show_whole if options.verbose else _Table(is_open_ended=options.follow)


def _follow(
    path: str, mark: int, selection: Selection, show: Callable[[Iterable[Event]], None]
) -> NoReturn:
    while True:
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)
        new, mark = follow_reports(path, mark)
        show(event for event in new if selection.takes(event))


def _show_json(reports: Iterable[Event]) -> None:
    for report in reports:
        # ASCII, so that no control character reaches the terminal.
        print(json.dumps(report, separators=(",", ":")))


def _show_whole(reports: Iterable[Event]) -> None:
    paint = Paint()
    for report in reports:
        print_report(report, paint)
        print()


class _Table:
    """Prints rows in columns: as wide as the rows need, or fixed where more are to come."""

    def __init__(self, *, is_open_ended: bool) -> None:
        self._is_open_ended = is_open_ended
        self._is_terminal = Paint().is_terminal
        self._widths: list[int] = []

    def __call__(self, reports: Iterable[Event]) -> None:
        rows = [self._row(report) for report in reports]
        if not self._widths:
            self._widths = self._measure(rows)
            self._print(_HEADINGS)
        for row in rows:
            self._print(row)

    def _measure(self, rows: list[_Row]) -> list[int]:
        if self._is_open_ended:
            return list(_WIDTHS)
        needed = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        return [min(pair) for pair in zip(needed, _WIDTHS, strict=True)]

    def _print(self, row: _Row) -> None:
        cells = [
            shown.cut(cell, width).ljust(width)
            for cell, width in zip(row, self._widths, strict=True)
        ]
        print("  ".join(cells).rstrip())

    def _row(self, report: Event) -> _Row:
        user = shown.user_of(report)
        event_id = str(report.get("event_id") or "-")
        cells = (
            local_time(shown.time_of(report)),
            str(report.get("level") or "-"),
            shown.identity(user) if shown.has_user(user) else "nobody",
            shown.username(user) or "-",
            shown.client_address(report) or "-",
            shown.title(report) or "-",
            shown.place(report) or "-",
            # The beginning is enough for `usercontext report`, and a terminal is narrow.
            event_id[:_SHORT_ID] if self._is_terminal else event_id,
        )
        return _Row(*map(shown.visible, cells))
