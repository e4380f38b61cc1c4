"""Processes killed while they capture: whatever was acknowledged is in the outbox or sent.

Acknowledged means that `flush()` has returned True after the event was captured.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.sentry.server import Answer, SentryServer
from usercontext.sentry import read_reports
from usercontext.sentry.delivery.outbox_status import outbox_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usercontext.sentry import SentryClient

KILLS = 100

# One process that forks the others: they need not start an interpreter each. A child tells its
# parent what is acknowledged, and is killed some time after it has told some of it.
PARENT = """
import os, random, signal, sys, time
import logging
logging.disable()
from usercontext.sentry import SentryClient

def capture_for_ever(pipe):
    client = SentryClient(sys.argv[1], outbox=sys.argv[2])
    while True:
        ids = [client.capture_message("x" * random.choice((10, 5000))) for _ in range(5)]
        if client.flush(0.1):
            os.write(pipe, "".join(f"{event_id}\\n" for event_id in ids if event_id).encode())

SentryClient(sys.argv[1])  # imports what each would import
for number in range(int(sys.argv[3])):
    dice = random.Random(number)
    mine, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(mine)
        capture_for_ever(its)
    os.close(its)
    with os.fdopen(mine) as told:
        acknowledged = [told.readline() for _ in range(dice.randrange(5))]
        end = time.perf_counter() + dice.random() * 0.02
        while time.perf_counter() < end:
            pass
        os.kill(pid, signal.SIGKILL)
        acknowledged += told.readlines()
    os.waitpid(pid, 0)
    sys.stdout.write("".join(acknowledged))
"""


class Unreliable(list[Answer]):
    """Answers without end, of which some are faults."""

    def __init__(self) -> None:
        faults = (None, None, "hang_up", None, "reset", None, None, "garbage")
        self.faults = itertools.cycle(faults)

    def __bool__(self) -> bool:
        return True

    def pop(self, _index: object = 0) -> Answer:
        return Answer(fault=next(self.faults))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_while_capturing(
    server: SentryServer, tmp_path: Path, make_client: Callable[..., SentryClient]
) -> None:
    """Killed at a hundred random points, nothing acknowledged is lost."""
    path = tmp_path / "outbox.db"
    server.answers = Unreliable()
    command = [sys.executable, "-c", PARENT, server.dsn, str(path), str(KILLS)]
    done = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True)
    acknowledged = set(done.stdout.split())
    waiting = {report["event_id"] for report in read_reports(path)}
    sent = {event["event_id"] for event in server.events}

    assert len(acknowledged) > KILLS
    assert acknowledged <= waiting | sent

    server.answers = []
    assert make_client(server.dsn, outbox=path).flush(30.0)
    sent = {event["event_id"] for event in server.events}
    assert acknowledged | waiting <= sent
    assert outbox_status(path).waiting == {}
