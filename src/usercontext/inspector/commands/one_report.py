"""`usercontext report PATH EVENT`: all of one report, for people to read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.inspector import report as shown
from usercontext.inspector.commands.terminal import Paint, local_time
from usercontext.inspector.selection import find_report

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from usercontext.types import Event

__all__ = ["add_report", "print_report"]

_LEVEL_COLOURS = {"fatal": "red", "error": "red", "warning": "yellow"}


def add_report(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "report",
        help="show one report: traceback, request, user",
        description="Show one report: its traceback, its request, its user.",
    )
    parser.add_argument("path", metavar="PATH", help="the file, or the DSN that names it")
    parser.add_argument("event", metavar="EVENT", help="the id, or its first digits")
    parser.add_argument("--json", action="store_true", help="as JSON, whole")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> None:
    event = find_report(options.path, options.event)
    if options.json:
        import json

        print(json.dumps(event, indent=2))
    else:
        print_report(event, Paint())
    sys.stdout.flush()


def print_report(event: Event, paint: Paint) -> None:
    """Print a report, with the newest exception last, as Python does."""
    for line in _lines(event, paint):
        print(line)


def _lines(event: Event, paint: Paint) -> Iterator[str]:
    level = shown.level(event)
    title = _clean(shown.title(event) or "(no text)")
    yield paint(title, "bold", _LEVEL_COLOURS.get(level, "cyan"))
    yield paint(
        "  ".join(
            filter(
                None,
                (
                    local_time(shown.time_of(event)),
                    level,
                    _clean(shown.place(event)),
                    f"event {_clean(str(event.get('event_id') or '-'))}",
                ),
            )
        ),
        "dim",
    )
    yield from _user(event, paint)
    yield from _traceback(event, paint)
    for name, pairs in shown.request_parts(event):
        yield from _section(f"Request {name}".strip(), pairs, paint)
    yield from _decisions(event, paint)


def _user(event: Event, paint: Paint) -> Iterator[str]:
    if shown.has_user(shown.user_of(event)):
        yield from _section("User", shown.user_parts(event), paint)
        return
    yield ""
    address = _clean(shown.client_address(event))
    yield paint("User", "bold") + "  nobody" + (f", from {address}" if address else "")


def _traceback(event: Event, paint: Paint) -> Iterator[str]:
    for error in reversed(shown.exceptions(event)):
        yield ""
        if error.frames:
            yield paint("Traceback (most recent call last)", "bold")
        for frame in error.frames:
            yield from _frame(frame, paint)
        relation = f"  ({error.relation})" if error.relation else ""
        yield paint(f"{_clean(error.kind)}: {_clean(error.text)}", "red") + paint(relation, "dim")


def _frame(frame: shown.Frame, paint: Paint) -> Iterator[str]:
    where = f"{_clean(frame.file)}:{frame.line or '?'} in {_clean(frame.function) or '?'}"
    yield "  " + (paint(where, "cyan") if frame.in_app else paint(where, "dim"))
    for line in frame.source if frame.in_app else ():
        text = f"    {'>' if line.is_current else ' '} {line.number or '':>5}  {_clean(line.text)}"
        yield text if line.is_current else paint(text, "dim")
    for name, value in frame.variables if frame.in_app else ():
        yield f"      {paint(_clean(name), 'blue')} = {_clean(value)}"


def _decisions(event: Event, paint: Paint) -> Iterator[str]:
    trace = shown.address_trace(event)
    if trace is not None:
        yield from _section("Address", list(_address(trace)), paint)
    kept_back = [(note.what, note.rule) for note in shown.withheld(event)]
    yield from _section("Withheld", kept_back, paint)


def _address(trace: shown.AddressTrace) -> Iterator[tuple[str, str]]:
    found = "the connection" if trace.source == "peer" else f"header {trace.header}"
    yield "found in", found
    if trace.hops:
        yield "entry", f"{trace.hops} from the right"
    yield "result", trace.reason
    if not trace.is_included:
        yield "reported", "no, as include_ip is off"
    elif trace.is_anonymized:
        yield "reported", "anonymised"


def _section(name: str, pairs: Iterable[tuple[str, str]], paint: Paint) -> Iterator[str]:
    cells = [(_clean(key), _clean(value)) for key, value in pairs]
    if not cells:
        return
    width = min(max(len(key) for key, _ in cells), 32)
    yield ""
    yield paint(name, "bold")
    for key, value in cells:
        yield f"  {paint(key.ljust(width), 'blue')}  {value}"


def _clean(text: str) -> str:
    return shown.visible(text)
