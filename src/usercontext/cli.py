"""The command line: shows the reports that an SQLite file keeps, and looks after an outbox."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

from usercontext._version import __version__
from usercontext.exceptions import ConfigurationError, UserContextError
from usercontext.inspector.commands.inspect import add_inspect
from usercontext.inspector.commands.of_user import add_erase, add_export
from usercontext.inspector.commands.one_report import add_report
from usercontext.inspector.commands.reports import add_reports
from usercontext.inspector.commands.send import add_send
from usercontext.inspector.commands.shared_outbox import add_forward, clear_shared, show_shared
from usercontext.inspector.commands.terminal import local_time, progress
from usercontext.inspector.commands.verify import add_verify
from usercontext.inspector.report import visible
from usercontext.inspector.selection import kind_of_file
from usercontext.sentry.delivery.engine import is_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_ACTIONS = (["erase"], ["export"], ["send"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns:
        0; 1 if `outbox flush` could not send everything; 2 with an explanation on stderr; 130 if
        it was interrupted.
    """
    options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(options.command(options) or 0)
    except UserContextError as error:
        print(f"usercontext: {error}", file=sys.stderr)
        return 2
    except sqlite3.Error as error:
        print(f"usercontext: {options.path!r} cannot be used now: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has enough (`| head`). Python would complain at exit, flushing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _joined(arguments: Sequence[str]) -> list[str]:
    """Make one word of a command of two, such as `reports erase`: `reports` takes a path as well.

    A file of such a name is shown as `./erase`.
    """
    if arguments[:1] == ["reports"] and arguments[1:2] in _ACTIONS:
        return [" ".join(arguments[:2]), *arguments[2:]]
    return list(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="usercontext",
        description="Say once who makes a request; every report names that user.",
    )
    parser.add_argument("--version", action="version", version=f"usercontext {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_reports, add_erase, add_export, add_send, add_report, add_inspect, add_verify):
        add(commands)
    _add_outbox(commands)
    return parser


def _add_outbox(commands: Any) -> None:
    outbox = commands.add_parser(
        "outbox",
        help="look after the reports that wait for their server",
        description="Look after an outbox: what the option outbox= of init() names.",
    )
    actions = outbox.add_subparsers(required=True, metavar="ACTION")
    for name, command, text in (
        ("status", _outbox_status, "show how many reports wait, for which server, how long"),
        ("flush", _outbox_flush, "send them now, but for those that a running process will send"),
        ("clear", _outbox_clear, "delete them, unsent"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        action.add_argument("path", metavar="PATH", help="the file, or the URL of an engine")
        action.set_defaults(command=command)
    add_forward(actions)


def _outbox_status(options: argparse.Namespace) -> None:
    from usercontext.sentry.delivery.outbox_status import outbox_status

    if is_engine(options.path):
        show_shared(options.path)
        return
    if kind_of_file(options.path) == "reports":
        raise ConfigurationError(
            f"{options.path!r} is not an outbox: it keeps the reports of a sqlite:/// DSN, which "
            "go nowhere else; `usercontext reports` shows them"
        )
    status = outbox_status(options.path)
    total = sum(status.waiting.values())
    print(f"waiting  {total} ({status.claimed} of them for a running process)")
    print(f"size     {status.size / 1024:.1f} KiB")
    print(f"oldest   {local_time(status.oldest)}")
    for target, number in sorted(status.waiting.items()):
        print(f"server   {_host_and_project(target)}  {number}")


def _outbox_flush(options: argparse.Namespace) -> int:
    from usercontext.sentry.delivery.outbox_status import outbox_status

    if is_engine(options.path):
        raise ConfigurationError(
            "flush sends a file: write `usercontext outbox forward --once URL` for an engine"
        )
    left = 0
    for target in sorted(outbox_status(options.path).waiting):
        left += _flush_to(target, options.path)
    return 1 if left else 0


def _flush_to(target: str, path: str) -> int:
    """Send what waits for one server and return how many are left."""
    from usercontext.sentry.delivery.build import OpenOutbox

    opened = OpenOutbox(path, target)
    name = _host_and_project(target)
    try:
        for done, left in enumerate(opened.send_all(), 1):
            progress(f"{name}: {done} of {done + left}")
        left = opened.outbox.waiting()
    finally:
        opened.close()
    stats = opened.ledger.stats()
    progress("")
    reasons = "".join(f", {reason} {count}" for reason, count in stats["discarded"].items())
    print(f"{name}: {stats['sent']} sent{reasons}, {left} left")
    if left:
        print("usercontext: the server cannot be reached now", file=sys.stderr)
    return left


def _host_and_project(target: str) -> str:
    # Without the key: whoever has it can send reports.
    return visible(target.rpartition("@")[2])


def _outbox_clear(options: argparse.Namespace) -> None:
    from usercontext.sentry.delivery.outbox_status import clear_outbox

    if is_engine(options.path):
        clear_shared(options.path)
        return
    print(f"{clear_outbox(options.path)} deleted")
