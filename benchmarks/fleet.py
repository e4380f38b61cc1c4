"""Simulate 10, 100 and 10,000 senders at one server that fails, hangs, slows down and limits.

    python benchmarks/fleet.py                # a table
    python benchmarks/fleet.py docs/images    # and the pictures of docs/scaling.md (matplotlib)

The senders and the server are simulated, by events on a clock of its own. The rules are the
package's own: `Pace`, with its `Backoff`, `RateLimits`, `Sampling` and `UserLimit`.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from usercontext.sentry.delivery.pace import Pace
from usercontext.sentry.delivery.rate_limits import RateLimits
from usercontext.sentry.sampling import Sampling, UserLimit

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_SECONDS = 0.02
TIMEOUT_SECONDS = 10.0
SLOW_SECONDS = 3.0
QUOTA_SECONDS = 60.0
#: In windows of so many seconds the peak is looked for, or of longer ones that have 100 events.
WINDOW = 10


class Scenario(NamedTuple):
    """A fleet, and what happens to its server.

    Attributes:
        senders: how many processes.
        rate: how many events each of them has in a second.
        seconds: how long all of it takes.
        trouble: what the server does from `begin` to `end`: "refuses", "hangs" or "slow".
        quota: which part of the steady rate the server takes, in each minute; None: all.
        sample_rate: which part of the users is sent.
        looping: whether the first sender has one user in a loop, a hundred times the rate.
        paced: whether senders go on at their own pace after an outage; False: as fast as they can.
    """

    senders: int
    rate: float
    seconds: float = 3000.0
    trouble: str = ""
    begin: float = 600.0
    end: float = 1200.0
    quota: float | None = None
    sample_rate: float = 1.0
    looping: bool = False
    paced: bool = True

    @property
    def steady(self) -> float:
        """How many events a second the server gets when nothing is wrong."""
        return self.senders * self.rate * self.sample_rate

    @property
    def window(self) -> int:
        """In which time the peak is looked for: in a shorter one chance alone makes peaks."""
        return max(WINDOW, round(100 / self.steady))


class Unpaced:
    """What senders did before: back off by up to 20 s, then send as fast as they can."""

    is_catching_up = False

    def __init__(self, chance: Callable[[], float]) -> None:
        self._failures = 0
        self._chance = chance

    def failed(self) -> float:
        self._failures += 1
        return min(20.0, 2.0 ** (self._failures - 1)) * (0.5 + 0.5 * self._chance())

    def succeeded(self, took: float = 0.0) -> float:
        del took
        self._failures = 0
        return 0.0

    def caught_up(self) -> None:
        self._failures = 0


class Sender:
    """One process with an outbox, which sends one event after the other."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet = fleet
        self._dice = random.Random(f"{fleet.seed}/{number}")
        self._rate = fleet.scenario.rate
        self._loops = fleet.scenario.looping and number == 0
        self._limits = RateLimits()
        self._user_limit = UserLimit(10, 60.0, clock=fleet.time)
        self._waiting: deque[float] = deque()
        self._is_busy = False
        self._retry_at = 0.0
        self._due = -1.0
        self.came = self.sent = 0
        self.discarded: Counter[str] = Counter()
        self._pace: Any = Unpaced(self._dice.random)
        if fleet.scenario.paced:
            self._pace = Pace(lambda: self.came, clock=fleet.time, chance=self._dice.random)

    def begin(self) -> None:
        self._fleet.at(self._dice.random() / self._rate, self._capture)

    def _capture(self) -> None:
        now = self._fleet.now
        rate = self._rate * (100 if self._loops else 1)
        self._fleet.at(now + self._dice.uniform(0.5, 1.5) / rate, self._capture)
        # Each sender's users are many, but for the one that loops.
        user = "id:looping" if self._loops else f"id:{self._dice.randrange(1_000_000)}"
        if not self._fleet.sampling.keeps(user):
            self.discarded["sample_rate"] += 1
        elif not self._user_limit.admits(user):
            self.discarded["max_per_user"] += 1
        else:
            self.came += 1
            self._waiting.append(now)
            self._look()

    def _look(self) -> None:
        """Send the oldest event, or come back when that may be done."""
        now = self._fleet.now
        if self._is_busy or not self._waiting:
            return
        if now < self._retry_at:
            if self._due < now:
                self._due = self._retry_at
                self._fleet.at(self._due, self._look)
            return
        if self._limits.is_limited(now):
            self.discarded["ratelimit_backoff"] += len(self._waiting)
            self._waiting.clear()
            return
        self._is_busy = True
        after, status, headers = self._fleet.answer()
        self._fleet.at(now + after, lambda: self._answered(status, headers, after))

    def _answered(self, status: int | None, headers: dict[str, str], took: float) -> None:
        now = self._fleet.now
        self._is_busy = False
        if status is None:
            self._retry_at = now + self._pace.failed()
        else:
            self._limits.update(status, headers, now)
            self._waiting.popleft()
            self._retry_at = now + self._pace.succeeded(took)
            if status == 200:
                self.sent += 1
            else:
                self.discarded["429"] += 1
            if not self._waiting:
                self._pace.caught_up()
                self._retry_at = 0.0
        self._look()


class Fleet:
    """Runs a scenario.

    Attributes:
        now: the time, in seconds.
        requests: how many requests began in each second.
    """

    def __init__(self, scenario: Scenario, seed: int = 1) -> None:
        self.scenario = scenario
        self.seed = seed
        self.now = 0.0
        self.sampling = Sampling(scenario.sample_rate, b"the key of the whole fleet")
        self.requests: Counter[int] = Counter()
        self._quota_used: Counter[int] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.senders = [Sender(self, number) for number in range(scenario.senders)]

    def time(self) -> float:
        return self.now

    def at(self, time: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), do))

    def run(self) -> Result:
        """Run to the end, and say what has come of it."""
        for sender in self.senders:
            sender.begin()
        while self._events and self._events[0][0] < self.scenario.seconds:
            self.now, _, do = heapq.heappop(self._events)
            do()
        return Result(self)

    def answer(self) -> tuple[float, int | None, dict[str, str]]:
        """Return after which time the server answers a request that begins now, and what."""
        self.requests[int(self.now)] += 1
        scenario = self.scenario
        if scenario.trouble and scenario.begin <= self.now < scenario.end:
            if scenario.trouble == "slow":
                return SLOW_SECONDS, 200, {}
            return (ANSWER_SECONDS if scenario.trouble == "refuses" else TIMEOUT_SECONDS), None, {}
        if scenario.quota is not None:
            minute = int(self.now / QUOTA_SECONDS)
            if self._quota_used[minute] >= scenario.quota * scenario.steady * QUOTA_SECONDS:
                left = (minute + 1) * QUOTA_SECONDS - self.now
                return ANSWER_SECONDS, 429, {"retry-after": f"{left:.3f}"}
            self._quota_used[minute] += 1
        return ANSWER_SECONDS, 200, {}


class Result:
    """What has come of a scenario.

    Attributes:
        peak: how many times the steady rate came in the busiest window since the trouble's end.
        fairness: which part of its events the sender got through that got the least through, over
            the part that all of them did.
        behind: how many seconds after the trouble's end the rate was the steady one again.
    """

    def __init__(self, fleet: Fleet) -> None:
        scenario = fleet.scenario
        since = int(scenario.end if scenario.trouble else scenario.begin)
        window = scenario.window
        rates = {
            second: sum(fleet.requests[second + each] for each in range(window)) / window
            for second in range(since, int(scenario.seconds) - window)
        }
        self.requests = [fleet.requests[second] for second in range(int(scenario.seconds))]
        self.peak = max(rates.values()) / scenario.steady
        came = sum(sender.came for sender in fleet.senders)
        self.sent = sum(sender.sent for sender in fleet.senders)
        parts = (sender.sent / sender.came for sender in fleet.senders if sender.came)
        self.fairness = min(parts) / (self.sent / came)
        busy = [second for second, rate in rates.items() if rate > 1.4 * scenario.steady]
        self.behind = (max(busy) - since + window) if busy else 0
        self.discarded = sum((sender.discarded for sender in fleet.senders), Counter[str]())


PACED = "refuses for 10 min"
UNPACED = "the same, without a pace"
#: How many processes, and how many events a second each of them has.
SIZES = {10: 1.0, 100: 0.5, 10_000: 0.01}


def scenarios(senders: int) -> dict[str, Scenario]:
    """Return what is tried with a fleet of that size."""
    rate = SIZES.get(senders, 1.0)
    return {
        PACED: Scenario(senders, rate, trouble="refuses"),
        "hangs for 10 min": Scenario(senders, rate, trouble="hangs"),
        "answers in 3 s for 10 min": Scenario(senders, rate, trouble="slow"),
        # Long enough that who gets the least through is not chosen by chance alone.
        "takes half (429)": Scenario(senders, rate, seconds=max(3000.0, 150 / rate), quota=0.5),
        "one user loops": Scenario(senders, rate, looping=True),
        "samples half of the users": Scenario(senders, rate, trouble="refuses", sample_rate=0.5),
        UNPACED: Scenario(senders, rate, trouble="refuses", paced=False),
    }


def main(pictures: Path | None = None) -> None:
    """Print the table, and draw the pictures."""
    named = [(senders, name) for senders in sorted(SIZES, reverse=True) for name in scenarios(1)]
    with ProcessPoolExecutor() as pool:
        told = dict(zip(named, pool.map(_run, named), strict=True))
    print("| senders | the server | peak / steady | least / mean | steady again after | dropped |")
    print("| ---: | --- | ---: | ---: | ---: | --- |")
    for senders, name in sorted(named, key=lambda each: each[0]):
        result = told[senders, name]
        dropped = ", ".join(f"{why} {number:,}" for why, number in result.discarded.items())
        print(
            f"| {senders:,} | {name} | {result.peak:.2f} | {result.fairness:.2f} "
            f"| {result.behind} s | {dropped or 'nothing'} |"
        )
    if pictures is not None:
        draw(pictures, told)


def _run(named: tuple[int, str]) -> Result:
    senders, name = named
    result = Fleet(scenarios(senders)[name]).run()
    print(senders, name, file=sys.stderr, flush=True)
    return result


def draw(folder: Path, told: dict[tuple[int, str], Result]) -> None:
    """Draw how many requests a second come, with and without a pace."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "fleet", "font.size": 9})
    figure, axes = pyplot.subplots(len(SIZES), 1, sharex=True, figsize=(7.5, 7.5))
    for axis, senders in zip(axes, SIZES, strict=True):
        scenario = scenarios(senders)[PACED]
        for name, label, colour in (
            (UNPACED, "as fast as they can", "#c44e52"),
            (PACED, "at their own pace", "#4c72b0"),
        ):
            requests = told[senders, name].requests
            steps = range(0, len(requests) - WINDOW, WINDOW)
            rates = [sum(requests[at : at + WINDOW]) / WINDOW / scenario.steady for at in steps]
            axis.plot([at / 60 for at in steps], rates, label=label, color=colour, linewidth=1)
        axis.axvspan(scenario.begin / 60, scenario.end / 60, color="#dddddd", zorder=0)
        axis.axhline(2.0, color="#888888", linewidth=0.8, linestyle="--")
        axis.set_title(f"{senders:,} senders", loc="left")
        axis.set_yscale("symlog", linthresh=3)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("requests / steady")
    axes[0].legend(loc="upper right", frameon=False)
    axes[-1].set_xlabel("minutes; the server is away in the grey ones")
    figure.tight_layout()
    figure.savefig(folder / "fleet.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
