"""Runs every scenario of calls over every transport, and writes what came of it to a page.

    python -m tests.calls.run_matrix          # with what this Python has installed
    python -m tests.calls.run_matrix --write  # and write docs/support.md of all that was run

Libraries exclude each other (mcp 1.x and 2.x, Strawberry and Graphene), and each is tried in its
oldest and its newest version: so a run keeps what it saw in `.matrix/`, and the page is made of
all. A user where there is nobody is stale, nobody in the place of a user is lost, another user is
a leak.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import usercontext
from tests.calls import serving
from tests.calls.serving import named
from tests.calls.transports import TRANSPORTS
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.calls.transports import Transport

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".matrix"
PAGE = ROOT / "docs" / "support.md"
BEGIN, END = "<!-- calls -->\n", "<!-- end of calls -->\n"

CALLERS = ["ada", "bob", None, "eve", None, "ada"]


class Seen:
    """What one scenario saw: how often a user was another's, missing, or left over."""

    def __init__(self) -> None:
        self.leaks = self.lost = self.stale = self.right = 0

    def add(self, expected: str | None, seen: str | None) -> None:
        expected, seen = expected or "nobody", seen or "nobody"
        if seen == expected:
            self.right += 1
        elif seen == "nobody":
            self.lost += 1
        elif expected == "nobody":
            self.stale += 1
        else:
            self.leaks += 1

    def __str__(self) -> str:
        found = {"leak": self.leaks, "lost": self.lost, "stale": self.stale}
        wrong = [f"{count} {name}" for name, count in found.items() if count]
        return ", ".join(wrong) or ("ok" if self.right else "-")


def own(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """Each call of one user is of that user."""
    for _number in range(3):
        seen.add("ada", transport.call("ada", "who"))


def others_next(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """The next call is of another."""
    for caller in ("ada", "bob", "eve", "ada"):
        seen.add(caller, transport.call(caller, "who"))


def others_at_once(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """Calls of several users at the same time."""
    callers = [f"user{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        told = pool.map(lambda caller: transport.call(caller, "slow"), callers)
        for caller, one in zip(callers, told, strict=True):
            seen.add(caller, one)


def nobody_after(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """A call of nobody after one of somebody."""
    for caller in CALLERS:
        seen.add(caller, transport.call(caller, "who"))


def errors(transport: Transport, seen: Seen, recorder: RecordingClient) -> None:
    """What a call raises is reported once, with its caller."""
    for caller in ("ada", None, "bob"):
        transport.call(caller, "boom")
    told = [user for _, user in named(recorder.events)]
    for number, caller in enumerate(("ada", None, "bob")):
        seen.add(caller, told[number] if number < len(told) else None)
    seen.lost += 3 - min(len(told), 3)
    seen.leaks += max(len(told) - 3, 0)


def streams(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """Each part of a stream is of who has asked for it."""
    for caller in ("ada", None, "bob"):
        for one in transport.stream(caller) or ():
            seen.add(caller, one)


def background(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """What outlives its call keeps its user, while others call."""
    for caller in ("ada", None):
        serving.forget()
        transport.call(caller, "later")
        transport.call("bob", "who")
        serving.after_the_call.set()
        noted = serving.has_noted.wait(10)
        seen.add(caller, serving.noted[0] if noted else None)


def cancelled(transport: Transport, seen: Seen, _: RecordingClient) -> None:
    """What a call does as it is cancelled is of its caller, and the next call is not."""
    for caller in ("ada", "bob"):
        serving.forget()
        if transport.cancel(caller):
            seen.add(caller, serving.noted[0])
            seen.add(None, transport.call(None, "who"))


SCENARIOS: dict[str, Callable[[Any, Seen, RecordingClient], None]] = {
    "own user": own,
    "other next": others_next,
    "others at once": others_at_once,
    "nobody after": nobody_after,
    "error": errors,
    "stream": streams,
    "background": background,
    "cancelled": cancelled,
}


def run(transport: Transport) -> dict[str, str]:
    """Run every scenario over one transport; return what came of each."""
    found = {}
    with transport.serving():
        for name, scenario in SCENARIOS.items():
            recorder, seen = RecordingClient(), Seen()
            usercontext.init(None, client=recorder)
            scenario(transport, seen, recorder)
            found[name] = str(seen)
    return found


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run_all(only: str) -> None:
    """Run what this Python has installed, and keep what came of it."""
    KEPT.mkdir(exist_ok=True)
    for transport in TRANSPORTS:
        installed = "" if transport.package == "usercontext" else _installed(transport.package)
        if installed is None or only not in transport.package:
            continue
        try:
            found: Any = run(transport)
        except ImportError as error:
            print(f"{transport.package} {installed}, {transport.name}: not run ({error})")
            continue
        row = [transport.package, installed, transport.name, found]
        name = f"calls-{transport.package}-{installed}-{transport.name}".replace(", ", "-")
        (KEPT / f"{name}.json").write_text(json.dumps(row))
        print(transport.package, installed, transport.name, found, flush=True)


def page() -> str:
    """Return the part of the page that the kept runs make."""
    order = {(one.package, one.name): number for number, one in enumerate(TRANSPORTS)}
    rows = [json.loads(path.read_text()) for path in KEPT.glob("calls-*.json")]
    rows.sort(key=lambda row: (order[row[0], row[2]], _numbers(row[1])))
    cells = [cell for *_, found in rows for cell in found.values()]
    lines = [
        f"| library | version | transport | {' | '.join(SCENARIOS)} |",
        f"| {' | '.join(['---'] * (3 + len(SCENARIOS)))} |",
    ]
    for package, installed, transport, found in rows:
        name = "" if package == "usercontext" else package
        told = " | ".join(found[scenario] for scenario in SCENARIOS)
        lines.append(f"| {name} | {installed} | {transport} | {told} |")
    wrong = sum(cell not in ("ok", "-") for cell in cells)
    right = cells.count("ok")
    nothing = "`-`: there is no such thing, or the library cancelled nothing."
    lines += ["", f"{right} right, {wrong} wrong; {nothing}"]
    return "\n".join(lines) + "\n"


def _numbers(installed: str) -> list[int]:
    return [int(part) for part in installed.split(".") if part.isdecimal()]


def write() -> None:
    """Put the table into the page, in place of the one before."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + page() + END + after)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is installed, and write the page if asked."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/support.md")
    parser.add_argument("--only", default="", help="a part of the library's name")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    if options.write:
        write()
    else:
        run_all(options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
