"""The command line: shows the reports that an SQLite file keeps, and looks after an outbox."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from usercontext._version import __version__
from usercontext.exceptions import UserContextError
from usercontext.sentry.delivery.build import OpenOutbox
from usercontext.sentry.delivery.outbox_status import clear_outbox, outbox_status
from usercontext.sentry.delivery.store import follow_reports, read_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from usercontext.types import Event

__all__ = ["main"]

_POLL_SECONDS = 0.5
#: Beside the identity ("id:7"), what `--user` is compared with.
_USER_FIELDS = ("id", "username", "email", "ip_address")


class _Row(NamedTuple):
    """What the table shows of a report."""

    time: str
    level: str
    user: str
    address: str
    what: str
    where: str


_HEADINGS = _Row("TIME", "LEVEL", "USER", "ADDRESS", "WHAT", "WHERE")
_WIDTHS = _Row(*map(str, (19, 7, 24, 15, 48, 40)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Returns:
        0; 1 if `outbox flush` could not send everything; 2 with an explanation on stderr; 130 if
        it was interrupted.
    """
    options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="usercontext",
        description="Say once who makes a request; every report names that user.",
    )
    parser.add_argument("--version", action="version", version=f"usercontext {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    reports = commands.add_parser(
        "reports",
        help="show the reports kept in an SQLite file",
        description='Show the reports that a DSN like "sqlite:///reports.db" keeps, oldest first.',
    )
    reports.add_argument("path", metavar="PATH", help="the file, or the DSN that names it")
    reports.add_argument(
        "--user", metavar="ID", help='only of this id, username, email, address, or "id:ID"'
    )
    reports.add_argument("--limit", metavar="N", type=_count, help="only the newest N")
    reports.add_argument("--json", action="store_true", help="one report a line, as JSON")
    reports.add_argument("--follow", action="store_true", help="go on showing new ones")
    reports.set_defaults(command=_reports)
    _add_outbox(commands)
    return parser


def _add_outbox(commands: Any) -> None:
    outbox = commands.add_parser(
        "outbox",
        help="look after the reports that wait for their server",
        description="Look after an outbox: the file that the option outbox= of init() names.",
    )
    actions = outbox.add_subparsers(required=True, metavar="ACTION")
    for name, command, text in (
        ("status", _outbox_status, "show how many reports wait, for which server, how long"),
        ("flush", _outbox_flush, "send them now, but for those that a running process will send"),
        ("clear", _outbox_clear, "delete them, unsent"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        action.add_argument("path", metavar="PATH", help="the file")
        action.set_defaults(command=command)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _reports(options: argparse.Namespace) -> None:
    mark = follow_reports(options.path)[1]
    reports = _of_user(read_reports(options.path, until=mark), options.user)
    if options.limit is not None:
        reports = iter(deque(reports, maxlen=options.limit))
    show = _show_json if options.json else _Table(is_open_ended=options.follow)
    show(reports)
    if options.follow:
        with suppress(KeyboardInterrupt):  # The way to end it.
            _follow(options, mark, show)
    sys.stdout.flush()


def _follow(
    options: argparse.Namespace, mark: int, show: Callable[[Iterable[Event]], None]
) -> NoReturn:
    while True:
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)
        new, mark = follow_reports(options.path, mark)
        show(_of_user(new, options.user))


def _outbox_status(options: argparse.Namespace) -> None:
    status = outbox_status(options.path)
    total = sum(status.waiting.values())
    print(f"waiting  {total} ({status.claimed} of them for a running process)")
    print(f"size     {status.size / 1024:.1f} KiB")
    print(f"oldest   {_time(status.oldest)}")
    for target, number in sorted(status.waiting.items()):
        print(f"server   {_host_and_project(target)}  {number}")


def _outbox_flush(options: argparse.Namespace) -> int:
    left = 0
    for target in sorted(outbox_status(options.path).waiting):
        left += _flush_to(target, options.path)
    return 1 if left else 0


def _flush_to(target: str, path: str) -> int:
    """Send what waits for one server and return how many are left."""
    opened = OpenOutbox(path, target)
    name = _host_and_project(target)
    try:
        for done, left in enumerate(opened.send_all(), 1):
            _progress(f"{name}: {done} of {done + left}")
        left = opened.outbox.waiting()
    finally:
        opened.close()
    stats = opened.ledger.stats()
    _progress("")
    reasons = "".join(f", {reason} {count}" for reason, count in stats["discarded"].items())
    print(f"{name}: {stats['sent']} sent{reasons}, {left} left")
    if left:
        print("usercontext: the server cannot be reached now", file=sys.stderr)
    return left


def _host_and_project(target: str) -> str:
    # Without the key: whoever has it can send reports.
    return _visible(target.rpartition("@")[2])


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _outbox_clear(options: argparse.Namespace) -> None:
    print(f"{clear_outbox(options.path)} deleted")


def _of_user(reports: Iterable[dict[str, Any]], wanted: str | None) -> Iterator[dict[str, Any]]:
    return (report for report in reports if wanted is None or _names(report, wanted))


def _names(report: dict[str, Any], wanted: str) -> bool:
    user = _user(report)
    values = [str(user[field]) for field in _USER_FIELDS if user.get(field)]
    return wanted in values or wanted == _identity(user)


def _show_json(reports: Iterable[dict[str, Any]]) -> None:
    for report in reports:
        # ASCII, so that no control character reaches the terminal.
        print(json.dumps(report, separators=(",", ":")))


class _Table:
    """Prints rows in columns: as wide as the rows need, or fixed where more are to come."""

    def __init__(self, *, is_open_ended: bool) -> None:
        self._is_open_ended = is_open_ended
        self._widths: list[int] = []

    def __call__(self, reports: Iterable[dict[str, Any]]) -> None:
        rows = [_row(report) for report in reports]
        if not self._widths:
            self._widths = self._measure(rows)
            self._print(_HEADINGS)
        for row in rows:
            self._print(row)

    def _measure(self, rows: list[_Row]) -> list[int]:
        most = [int(width) for width in _WIDTHS]
        if self._is_open_ended:
            return most
        needed = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        return [min(pair) for pair in zip(needed, most, strict=True)]

    def _print(self, row: _Row) -> None:
        *cells, last = row
        padded = [
            _cut(cell, width).ljust(width) for cell, width in zip(cells, self._widths, strict=False)
        ]
        print("  ".join([*padded, last]).rstrip())


def _row(report: dict[str, Any]) -> _Row:
    user = _user(report)
    request = _dict(report, "request")
    cells = (
        _time(report.get("timestamp")),
        str(report.get("level") or "-"),
        _identity(user) or "-",
        str(user.get("ip_address") or _dict(request, "env").get("REMOTE_ADDR") or "-"),
        _what(report),
        str(report.get("transaction") or request.get("url") or "-"),
    )
    return _Row(*map(_visible, cells))


def _dict(of: dict[str, Any], key: str) -> dict[str, Any]:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _user(report: dict[str, Any]) -> dict[str, Any]:
    return _dict(report, "user")


def _identity(user: dict[str, Any]) -> str | None:
    for field in _USER_FIELDS:
        if user.get(field):
            return f"{field.removesuffix('_address')}:{user[field]}"
    return None


def _time(timestamp: object) -> str:
    if not isinstance(timestamp, int | float):
        return "-"
    return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _what(report: dict[str, Any]) -> str:
    values = _dict(report, "exception").get("values")
    if isinstance(values, list) and values and isinstance(values[-1], dict):
        return f"{values[-1].get('type')}: {values[-1].get('value')}"
    message = _dict(report, "logentry")
    return str(message.get("formatted") or message.get("message") or "-")


def _visible(text: str) -> str:
    """Return a text whose control characters a terminal shows instead of obeying."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
