"""Let four threads of each request race; count whose user was wrong, lost, or told all the same.

In every request one thread asks who the user is, one sets another user, one reports, and one
withdraws consent in every second request, all at once and with a switch interval of a
microsecond. `soak.py --threads` runs it.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import usercontext
from usercontext.testing import RecordingClient
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["race"]

THREADS = 4
SWITCH_SECONDS = 1e-6
PROGRESS_EVERY = 10_000


@dataclass
class Outcome:
    """What came of all requests; each of the counts is to be 0."""

    requests: int = 0
    wrong: int = 0
    lost: int = 0
    undone: int = 0
    unsent: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.wrong or self.lost or self.undone or self.unsent)


class Race:
    """Requests whose threads race, served one after the other."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self._recorder = RecordingClient()
        self._pool = ThreadPoolExecutor(THREADS)
        self._start = threading.Barrier(THREADS)
        self._app = UserContextMiddleware(self._serve, resolver=resolved_user)
        usercontext.init(client=self._recorder)

    def run(self, requests: int) -> Outcome:
        """Serve so many requests, and return what came of them."""
        begin = time.monotonic()
        for number in range(requests):
            self._app({"REQUEST_METHOD": "GET", "race.number": number}, None)
            if number % PROGRESS_EVERY == PROGRESS_EVERY - 1:
                print(f"  {number + 1:,} requests", file=sys.stderr, flush=True)
        self.outcome.requests = requests
        self.outcome.seconds = time.monotonic() - begin
        self._pool.shutdown()
        return self.outcome

    def _serve(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        number = environ["race.number"]
        withdraws = number % 2 == 1
        self._recorder.clear()
        steps: list[Callable[[], object]] = [
            usercontext.get_user,
            lambda: usercontext.set_user({"id": f"set-{number}"}),
            lambda: usercontext.capture_message("racing"),
            lambda: usercontext.set_reporting(not withdraws),
        ]
        asked, *_ = self._at_once(steps)
        usercontext.capture_message("after all")
        self._judge(number, asked, withdraws=withdraws)
        return []

    def _at_once(self, steps: list[Callable[[], object]]) -> list[Any]:
        # Not by `bind`, which asks the resolver first: that is to race as well.
        from contextvars import copy_context

        def begin(step: Callable[[], object]) -> object:
            self._start.wait()
            return step()

        futures: list[Future[object]] = [
            self._pool.submit(copy_context().run, begin, step) for step in steps
        ]
        return [future.result() for future in futures]

    def _judge(self, number: int, asked: Any, *, withdraws: bool) -> None:
        outcome, own = self.outcome, {f"resolved-{number}", f"set-{number}"}
        now = usercontext.get_user()
        outcome.wrong += asked is None or asked.id not in own
        outcome.lost += now is None or now.id != f"set-{number}"
        outcome.unsent += len(self._recorder.events) != 2
        for event in self._recorder.events:
            outcome.wrong += event.get("user", {}).get("id") not in {*own, None}
        last = self._recorder.events[-1].get("user")
        outcome.undone += withdraws and last is not None
        outcome.lost += not withdraws and (last or {}).get("id") != f"set-{number}"


def resolved_user(request: Any) -> object:
    """Return the user that the resolver knows."""
    return {"id": f"resolved-{request.environ['race.number']}"}


def race(requests: int) -> Outcome:
    """Serve requests whose threads race, and restore the switch interval after them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        return Race().run(requests)
    finally:
        sys.setswitchinterval(before)
