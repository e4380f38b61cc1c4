"""`usercontext reports erase` and `usercontext reports export`: all that a file has of a person."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from usercontext.inspector.commands.arguments import add_path, add_user, path_of
from usercontext.inspector.commands.terminal import local_time
from usercontext.inspector.report import visible
from usercontext.inspector.selection import Selection, select_reports

if TYPE_CHECKING:
    import argparse

__all__ = ["add_erase", "add_export"]


def add_erase(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "reports erase",
        help="delete all reports that name a user",
        description="Delete all reports that name a user, of a file of reports or of an outbox, "
        "and rewrite the file without them. Says what cannot be reached from here.",
    )
    add_path(parser)
    add_user(parser, required=True)
    parser.add_argument("--dry-run", action="store_true", help="show them, and delete nothing")
    parser.set_defaults(command=_erase)


def add_export(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "reports export",
        help="print all reports that name a user, as JSON",
        description="Print all reports that name a user, of a file of reports or of an outbox: "
        "one a line, as JSON.",
    )
    add_path(parser)
    add_user(parser, required=True)
    parser.set_defaults(command=_export)


def _erase(options: argparse.Namespace) -> int:
    from usercontext.inspector.erasing import erase_user, reports_of_user

    path = path_of(options)
    if options.dry_run:
        found = reports_of_user(path, options.user)
        for report in found:
            when, title = local_time(report.timestamp), visible(report.title)
            print(f"{when}  {report.event_id}  {title}")
        print(f"{_reports(len(found))} would be erased")
        _tell_the_rest(path, options.user)
        return 0
    erased = erase_user(path, options.user)
    print(f"{_reports(erased.reports)} erased")
    if not erased.is_compacted:
        print(
            "the reports are overwritten, but the file could not be rewritten, as another "
            "program is using it: its log may hold them until you run this once more",
            file=sys.stderr,
        )
    _tell_the_rest(path, options.user)
    return 0 if erased.is_compacted else 1


def _export(options: argparse.Namespace) -> None:
    path = path_of(options)
    number = 0
    for report in select_reports(path, Selection(user=options.user)):
        # ASCII, so that no control character reaches the terminal.
        print(json.dumps(report, separators=(",", ":")))
        number += 1
    sys.stdout.flush()
    print(f"{_reports(number)} exported", file=sys.stderr)
    _tell_the_rest(path, options.user)


def _tell_the_rest(path: str, user: str) -> None:
    """Say what this command has not reached, so that nobody takes the person to be forgotten."""
    from usercontext.inspector.erasing import copies_elsewhere, mentions

    others = mentions(path, user)
    if others > 0:
        print(f"{_reports(others)} of others hold this text elsewhere", file=sys.stderr)
    for place in copies_elsewhere(path):
        print(f"not reached: {visible(place)}", file=sys.stderr)
    print(
        "not reached: servers that the app reports to, other reporting clients, logs, backups; "
        "see docs/erasing.md",
        file=sys.stderr,
    )


def _reports(number: int) -> str:
    return f"{number} report{'' if number == 1 else 's'}"
