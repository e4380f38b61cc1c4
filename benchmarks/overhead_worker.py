"""Measures one row of `overhead.py` in a process of its own, told what to do on standard input.

Every command is a line of JSON and is answered by one: `time`, `count`, `memory`, `cycles`, `quit`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import sys
import time
import tracemalloc
from itertools import repeat
from typing import Any

import overhead_framework_apps
import overhead_rows
from overhead_rows import Row, asgi_app, environ, http_scope, wsgi_app

__all__ = ["main"]

WARM_UP = 300
IN_FLIGHT = 200


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Any) -> None:
    pass


def _start_response(_status: str, _headers: Any, _exc_info: Any = None) -> Any:
    return None


async def _drive_asgi(app: Any, requests: int) -> None:
    for _ in repeat(None, requests):
        await app(http_scope(), _receive, _send)


async def _drive_wsgi(app: Any, requests: int) -> None:
    for _ in repeat(None, requests):
        body = app(environ(), _start_response)
        for _chunk in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()


class _Bench:
    def __init__(self, row: Row, runner: asyncio.Runner) -> None:
        self.row = row
        self.runner = runner
        self.wrap, self.act = row.build()
        make = asgi_app if row.interface == "asgi" else wsgi_app
        self.app = self.wrap(make(self.act))
        self.drive = _drive_asgi if row.interface == "asgi" else _drive_wsgi
        self._run(WARM_UP)

    def _run(self, requests: int) -> None:
        self.runner.run(self.drive(self.app, requests))

    def time(self, requests: int) -> float:
        """Return the nanoseconds of CPU of one request, over a run of `requests`."""

        async def timed() -> float:
            begin = time.process_time_ns()
            await self.drive(self.app, requests)
            return (time.process_time_ns() - begin) / requests

        return self.runner.run(timed())

    def count(self, requests: int) -> None:
        """Run `requests` between the client requests that switch callgrind on and off."""
        library = os.environ.get("OVERHEAD_SWITCH")
        if library is None:
            self._run(requests)
            return
        switch = ctypes.CDLL(library)

        async def counted() -> None:
            switch.start_counting()
            await self.drive(self.app, requests)
            switch.stop_counting()

        self.runner.run(counted())

    def memory(self) -> float | None:
        """Return the bytes that one request holds while the app waits for something."""
        if self.row.interface != "asgi":
            return None
        self.runner.run(self._held())
        return self.runner.run(self._held())

    async def _held(self) -> float:
        release = asyncio.Event()
        app = self.wrap(asgi_app(self.act, release.wait))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(app(http_scope(), _receive, _send)) for _ in range(IN_FLIGHT)]
        for _ in range(10):
            await asyncio.sleep(0)
        held = (tracemalloc.get_traced_memory()[0] - before) / IN_FLIGHT
        release.set()
        await asyncio.gather(*tasks)
        tracemalloc.stop()
        return held

    def cycles(self) -> float:
        """Return how many objects of a finished request only the cycle collector can free."""

        async def left() -> float:
            gc.collect()
            await self.drive(self.app, 100)
            return gc.collect() / 100

        return self.runner.run(left())


def main(name: str) -> int:
    """Answer commands about the row called `name` until told to quit."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    # "asgi.unread", or "asgi.starlette.module"
    rows = overhead_rows.ROWS if name.count(".") == 1 else overhead_framework_apps.ROWS
    row = next(row for row in rows if row.name == name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is not an answer
    with asyncio.Runner() as runner:
        try:
            bench = _Bench(row, runner)
        except ImportError as error:
            answers.write(json.dumps({"absent": f"{error.name or error} is not installed"}) + "\n")
            return 0
        except Exception as error:
            answers.write(json.dumps({"failed": f"{type(error).__name__}: {error}"}) + "\n")
            return 1
        answers.write(json.dumps({"ready": name}) + "\n")
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            if command == "quit":
                break
            answers.write(json.dumps(getattr(bench, command)(*arguments)) + "\n")
    # Daemon threads and exit handlers of the peers have nothing left to say.
    os._exit(0)
