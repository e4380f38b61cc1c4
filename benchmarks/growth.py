"""How cost grows: requests in flight, trusted networks, scrub rules.

    python benchmarks/growth.py

Memory is what tracemalloc counts, over the same app without us. Instructions are counted by
`valgrind --tool=callgrind`, as the difference of two runs that differ in
their number of calls alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usercontext import RequestData, get_user, set_user
from usercontext.asgi import UserContextMiddleware
from usercontext.privacy import Scrubber

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).resolve().parent.parent / "src"
IN_FLIGHT = (100, 1000, 10_000)
NETWORKS = (1, 10, 100, 1000)
RULES = (1, 10, 50, 200)
CALLS = (100, 300)

# --- memory ---------------------------------------------------------------------------------------


def scope(number: int) -> dict[str, Any]:
    """Return what uvicorn makes of a request, of a client of its own."""
    client = f"203.0.{number >> 8 & 255}.{number & 255}"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("10.0.0.2", 8000),
        "client": ("10.0.0.1", 50_000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"example.com"), (b"x-forwarded-for", client.encode())],
        "state": {},
    }


async def receive() -> dict[str, Any]:
    """Return an empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: object) -> None:
    """Take a message."""


def app(act: Callable[[], object], go_on: asyncio.Event) -> Any:
    """Return an app that acts, and then waits in the middle of its request."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        act()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return serve


ADDRESS = RequestData(include_ip=True, trusted_proxies=["10.0.0.0/8"])
ROWS: dict[str, tuple[dict[str, Any] | None, Callable[[], object]]] = {
    "bare": (None, lambda: None),
    "nobody asks": ({}, lambda: None),
    "nobody asks, address included": ({"request_data": ADDRESS}, lambda: None),
    "a user is set": ({}, lambda: set_user({"id": "42"})),
    "a user is set, address included": (
        {"request_data": ADDRESS},
        lambda: set_user({"id": "42"}),
    ),
    "a resolver's user is read": ({"resolver": lambda _: {"id": "42"}}, get_user),
    "a resolver's user is read, address included": (
        {"request_data": ADDRESS, "resolver": lambda _: {"id": "42"}},
        get_user,
    ),
}


async def held(row: str, number: int) -> float:
    """Return how many bytes each of some requests in flight takes."""
    options, act = ROWS[row]
    go_on = asyncio.Event()
    served: Any = app(act, go_on)
    if options is not None:
        served = UserContextMiddleware(served, **options)
    warm = asyncio.create_task(served(scope(0), receive, send))
    await asyncio.sleep(0)
    scopes = [scope(each) for each in range(number)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(served(each, receive, send)) for each in scopes]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    go_on.set()
    await asyncio.gather(warm, *tasks)
    return taken / number


def show_memory() -> None:
    """Print what a request in flight takes, over the bare app."""
    print("| bytes of a request in flight | " + " | ".join(f"{n:,}" for n in IN_FLIGHT) + " |")
    print("| --- |" + " ---: |" * len(IN_FLIGHT))
    bare = {number: asyncio.run(held("bare", number)) for number in IN_FLIGHT}
    for row in ROWS:
        if row != "bare":
            taken = [asyncio.run(held(row, number)) - bare[number] for number in IN_FLIGHT]
            print(f"| {row} | " + " | ".join(f"{each:.0f}" for each in taken) + " |", flush=True)


# --- instructions ---------------------------------------------------------------------------------


def networks(number: int) -> Callable[[int], object]:
    """Return what finds an address behind proxies, of so many networks of them."""
    trusted = ["10.0.0.0/8"]
    trusted += [f"172.{16 + (each >> 8)}.{each & 255}.0/24" for each in range(1, number)]
    data = RequestData(include_ip=True, trusted_proxies=trusted)

    def find(call: int) -> object:
        # Addresses that no cache has seen: a client, and two proxies that are trusted or not.
        chain = f"203.0.{call >> 8}.{call & 255}, 10.{call & 255}.1.2".encode()
        return data.ip_address(
            {"type": "http", "headers": [(b"x-forwarded-for", chain)], "client": ("10.0.0.1", 1)}
        )

    return find


def rules(number: int) -> Callable[[int], object]:
    """Return what scrubs a report by so many rules."""
    scrubber = Scrubber([f"$user.data.field{each}" for each in range(number)])

    def scrub(call: int) -> object:
        return scrubber.event(
            {
                "event_id": "0" * 32,
                "user": {"id": str(call), "data": {"field0": "x", "plan": "y"}},
                "request": {"url": "https://example.com/", "headers": {"Accept": "z"}},
                "extra": {"a": {"b": ["c", "d"]}},
            }
        )

    return scrub


MEASURED = {"networks": networks, "rules": rules}


def call(name: str, number: int, calls: int) -> None:
    """Call what is measured so often, after once."""
    measured = MEASURED[name](number)
    measured(0)
    for each in range(1, calls + 1):
        measured(each)


def instructions(name: str, number: int) -> float:
    """Count the instructions of one call."""
    few, many = (_count(name, number, calls) for calls in CALLS)
    return (many - few) / (CALLS[1] - CALLS[0])


def _count(name: str, number: int, calls: int) -> int:
    python = [sys.executable, __file__, name, str(number), str(calls)]
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *python]
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(SOURCE)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    found = re.search(r"Collected : (\d+)", ended.stderr)
    assert found is not None, ended.stderr
    return int(found[1])


def show_growth(name: str, what: str, numbers: tuple[int, ...]) -> None:
    """Print the instructions of one call for each number."""
    print(f"\n| {what} | instructions | for each |\n| ---: | ---: | ---: |")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = list(pool.map(lambda number: instructions(name, number), numbers))
    for number, each in zip(numbers, counted, strict=True):
        print(f"| {number:,} | {each:,.0f} | {each / number:,.0f} |", flush=True)


def main() -> None:
    """Measure and print."""
    show_memory()
    show_growth("networks", "trusted networks", NETWORKS)
    show_growth("rules", "scrub rules", RULES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        call(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
