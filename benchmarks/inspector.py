"""How fast a file of many reports is looked through: every page of the inspector, and the commands.

    python benchmarks/inspector.py                     # 300,000 reports, about 2 GB and 3 minutes
    python benchmarks/inspector.py --reports 20000
    python benchmarks/inspector.py --file kept.db      # makes it once, uses it again

For each page: the time to its first byte, beside that of the queries it needs, read in the same
process; the median and the worst of many. The file is written in the schema of 0.1, then indexed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from usercontext.inspector.index import ReportIndex
from usercontext.inspector.lists import Lists
from usercontext.inspector.server import Inspector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 50
USERS = 20_000
PROBLEMS = 400
DAY = 86_400.0


def main() -> None:
    """Make the file, index it, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=300_000)
    parser.add_argument("--file", type=Path, help="keep the file, and use it if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder, "reports.db")
        if not path.exists():
            timed("written, in the schema of 0.1", lambda: write(path, options.reports))
        print(f"{path.stat().st_size / 2**30:.2f} GiB, {count(path):,} reports\n")
        measure_command(path, "before it is inspected")
        timed("indexed", lambda: index(path))
        measure_command(path, "after that")
        measure_pages(path)


def timed(what: str, run: Callable[[], Any]) -> None:
    """Print how long something takes that is done once."""
    begun = time.perf_counter()
    run()
    print(f"{what}: {time.perf_counter() - begun:.1f} s", flush=True)


def count(path: Path) -> int:
    """Return how many reports a file holds."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM reports").fetchone()[0])


def index(path: Path) -> None:
    """Fill the inspector's tables."""
    with closing(ReportIndex(path)) as tables:
        while tables.catch_up():
            pass


def write(path: Path, number: int) -> None:
    """Write reports as an app of 0.1 has left them: no table but its own."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("""
            PRAGMA journal_mode = WAL;
            CREATE TABLE reports (event_id TEXT PRIMARY KEY, timestamp REAL NOT NULL,
                identity TEXT, payload TEXT NOT NULL);
            CREATE INDEX reports_by_timestamp ON reports (timestamp);
            CREATE INDEX reports_by_identity ON reports (identity);
        """)
        connection.executemany("INSERT INTO reports VALUES (?, ?, ?, ?)", rows(number))


def rows(number: int) -> Iterator[tuple[Any, ...]]:
    """Yield reports of a month: many users, a tenth nobody's, tracebacks of 7 to 12 frames."""
    chance = random.Random(1)
    begin = time.time() - 30 * DAY
    frames = [frame(at) for at in range(12)]
    for at in range(number):
        user, problem = chance.randrange(USERS), chance.randrange(PROBLEMS)
        event = {
            "event_id": f"{chance.getrandbits(128):032x}",
            "timestamp": begin + at * (30 * DAY / number),
            "level": chance.choice(["error", "error", "warning", "fatal"]),
            "exception": {"values": [error(at, problem, frames)]},
            "request": {"url": f"https://shop.example/orders/{at}", "method": "GET"},
            "transaction": f"/orders/{problem}",
        }
        identity = None
        if chance.random() > 0.1:
            identity = f"id:{user}"
            event["user"] = {
                "id": str(user),
                "username": f"user{user}",
                "email": f"user{user}@example.com",
                "ip_address": f"203.0.{user % 200}.{user % 250}",
            }
        yield event["event_id"], event["timestamp"], identity, json.dumps(event)


def error(at: int, problem: int, frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an exception of one of the problems."""
    last = {**frames[0], "function": f"function{problem}"}
    shown = [*frames[: 6 + problem % 6], last]
    text = f"no price for {at}"
    return {"type": f"Error{problem % 20}", "value": text, "stacktrace": {"frames": shown}}


def frame(at: int) -> dict[str, Any]:
    """Return a frame with its lines of source."""
    return {
        "filename": f"shop/module{at}.py",
        "function": f"function{at}",
        "module": f"shop.module{at}",
        "lineno": 10 + at,
        "in_app": at % 3 != 1,
        "context_line": "    return price[order]",
        "pre_context": ["x" * 40] * 5,
        "post_context": ["y" * 40] * 5,
    }


def measure_command(path: Path, when: str) -> None:
    """Print how long the command takes, its interpreter included."""
    print(f"\nusercontext reports, {when}")
    for arguments in (["--user", "id:7"], ["--user", "user7"], ["--since", "2h", "--limit", "50"]):
        command = [sys.executable, "-m", "usercontext", "reports", str(path), *arguments]
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begun)
        print(f"  {' '.join(arguments):28} {min(times):6.2f} s")
    print()


def measure_pages(path: Path) -> None:
    """Print the time to the first byte of every page, beside that of its queries."""
    lists = Lists(path)
    newest = lists.timeline().rows[0]
    deep = lists.timeline(level="fatal").after
    pages: dict[str, Callable[[], Any]] = {
        "/": lists.problems,
        f"/?after={lists.problems().after}": lambda: lists.problems(lists.problems().after),
        f"/problems/{newest.problem}": lambda: (
            lists.problem(newest.problem),
            lists.timeline(problem=newest.problem),
        ),
        "/users": lists.users,
        "/user?of=id%3A7": lambda: (lists.user("id:7"), lists.timeline(identity="id:7")),
        "/reports": lists.timeline,
        "/reports?of=nobody": lambda: lists.timeline(identity=""),
        f"/reports?level=fatal&after={deep}": lambda: lists.timeline(level="fatal", after=deep),
        f"/reports/{newest.event_id}": lambda: lists.report(newest.event_id),
        "/search?q=user77": lambda: lists.search("user77"),
        "/search?q=nothing-like-it": lambda: lists.search("nothing-like-it"),
    }
    inspector = Inspector(str(path))
    thread = threading.Thread(target=inspector.run)
    thread.start()
    port = int(inspector.url.rstrip("/").rpartition(":")[2])
    print(f"{'first byte, ms':44}  median   worst   queries")
    try:
        for page, queries in pages.items():
            asked, needed = measured(port, page), median(timings(queries))
            print(f"  {page[:42]:42}  {median(asked):6.1f}  {max(asked):6.1f}  {needed:8.1f}")
    finally:
        inspector.stop()
        thread.join()
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}"
    )


def timings(run: Callable[[], Any]) -> list[float]:
    """Return how long something takes, in ms."""
    run()
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        run()
        found.append((time.perf_counter() - begun) * 1000)
    return found


def measured(port: int, page: str) -> list[float]:
    """Return how long the first byte of a page takes, in ms, over a connection that is open."""
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        connection.makefile("rb") as file,
    ):
        return [first_byte(connection, file, page) for _ in range(ROUNDS + 1)][1:]


def first_byte(connection: socket.socket, file: Any, page: str) -> float:
    """Ask for a page, and return how long its first byte takes, in ms."""
    begun = time.perf_counter()
    connection.sendall(f"GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    status = file.readline()
    taken = (time.perf_counter() - begun) * 1000
    assert b" 200 " in status, (page, status)
    length = 0
    while (line := file.readline().strip()) != b"":
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    file.read(length)
    return taken


if __name__ == "__main__":
    main()
