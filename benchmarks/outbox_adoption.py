"""How soon a process sends what a dead one left in an outbox, and how long others are locked out.

    python benchmarks/outbox_adoption.py [reports]

A server in another process takes everything. While the outbox is adopted, another connection asks
for the file's lock over and over; the longest wait is shown.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing

from delivery import serving

REPORTS = 300_000
TARGETS = {"first": 1.0, "locked": 0.05}
WATCHED_SECONDS = 10.0
PAYLOAD = b'{"event_id":"%032x","message":"' + b"x" * 400 + b'"}'


def left(path: str, dsn: str, number: int) -> None:
    """Leave reports as a process does that dies; the next one finds them without an owner."""
    from usercontext.sentry.delivery.outbox import Bounds, Outbox
    from usercontext.sentry.dsn import Dsn

    box = Outbox(path, Dsn(dsn).public, bounds=Bounds(max_reports=10 * number, max_bytes=1 << 40))
    for start in range(0, number, 1000):
        ids = range(start, min(start + 1000, number))
        box.keep(({"event_id": f"{each:032x}"}, PAYLOAD % each) for each in ids)
    box.release()
    box.file.database.close()


def longest_wait(path: str, seconds: float) -> float:
    """Ask for the lock for some seconds; return how long it was waited for at most."""
    longest = 0.0
    until = time.perf_counter() + seconds
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        while time.perf_counter() < until:
            begin = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            longest = max(longest, time.perf_counter() - begin)
            connection.execute("ROLLBACK")
            time.sleep(0.002)
    return longest


def measure(number: int) -> int:
    """Print both figures; return how many targets were missed."""
    from usercontext.sentry import SentryClient

    with tempfile.TemporaryDirectory() as directory, serving() as dsn:
        path = f"{directory}/outbox.db"
        left(path, dsn, number)
        waits: list[float] = []
        watching = threading.Thread(
            target=lambda: waits.append(longest_wait(path, WATCHED_SECONDS))
        )
        watching.start()
        begin = time.perf_counter()
        client = SentryClient(dsn, outbox=path, max_reports=10 * number, max_outbox_bytes=1 << 40)
        while not client.stats()["sent"]:
            time.sleep(0.001)
        found = {"first": time.perf_counter() - begin}
        watching.join()
        found["locked"] = waits[0]
        sent = client.stats()["sent"]
    print(f"{number:,} reports: the first is sent after {found['first'] * 1000:.0f} ms")
    print(f"another process waits for the file for at most {found['locked'] * 1000:.0f} ms")
    print(f"{sent / WATCHED_SECONDS:,.0f} reports a second are sent meanwhile", flush=True)
    return sum(found[name] > target for name, target in TARGETS.items())


if __name__ == "__main__":
    missed = measure(int(sys.argv[1]) if sys.argv[1:] else REPORTS)
    sys.stderr.close()
    os._exit(int(missed > 0))  # What is left is not for the exit to send.
