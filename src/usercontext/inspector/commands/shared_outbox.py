"""`usercontext outbox` with the URL of an engine: what waits there, sending it, deleting it."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError
from usercontext.inspector.commands.terminal import local_time
from usercontext.inspector.report import visible
from usercontext.sentry.delivery.engine import is_engine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["add_forward", "clear_shared", "show_shared"]

_STOP_SECONDS = 5.0


def add_forward(actions: Any) -> None:
    """Add `outbox forward`."""
    text = "send what waits in Redis, Valkey or PostgreSQL, until it is ended"
    forward = actions.add_parser(
        "forward",
        help=text,
        description=f"{text.capitalize()}. Any number of them may be at work.",
    )
    forward.add_argument("path", metavar="URL", help="of the engine, as in outbox= of init()")
    forward.add_argument(
        "--dsn", help="the server to send everything to; else each report goes to its own"
    )
    forward.add_argument("--once", action="store_true", help="send what waits now, and end")
    forward.set_defaults(command=_forward)


def _forward(options: argparse.Namespace) -> int:
    from usercontext.sentry.delivery.forwarding import Forwarding

    if not is_engine(options.path):
        raise ConfigurationError(
            f"{options.path!r} is a file, which the app itself sends: `usercontext outbox flush` "
            "sends it now; forward takes a URL such as redis://host:6379/0"
        )
    forwarding = Forwarding(options.path, options.dsn)
    with _until_told() as ended:
        try:
            if options.once:
                forwarding.send_all()
            else:
                print("forwarding; Ctrl+C or SIGTERM ends it", flush=True)
                forwarding.run(ended)
        finally:
            forwarding.close(monotonic() + _STOP_SECONDS)
            _show(forwarding.stats())
    left = _left(options.path) if options.once else 0
    if left:
        print(f"usercontext: {left} left, which cannot be sent now", file=sys.stderr)
    return 1 if left else 0


def _left(url: str) -> int:
    from usercontext.sentry.delivery.forwarding import engine_status

    return sum(each.held.waiting for each in engine_status(url))


def _show(stats: dict[str, dict[str, Any]]) -> None:
    for target, told in stats.items():
        reasons = "".join(f", {reason} {count}" for reason, count in told["discarded"].items())
        print(f"{_host_and_project(target)}: {told['sent']} sent{reasons}", flush=True)


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Give an event that is set when this process is told to end."""
    ended = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_shared(url: str) -> None:
    """Print what waits in an engine."""
    from usercontext.sentry.delivery.forwarding import engine_status

    told = engine_status(url)
    held = [each.held for each in told]
    oldest = min((each.oldest for each in held if each.oldest is not None), default=None)
    claimed = sum(each.claimed for each in held)
    print(f"waiting  {sum(each.waiting for each in held)} ({claimed} of them being sent)")
    print(f"size     {sum(each.size for each in held) / 1024:.1f} KiB")
    print(f"oldest   {local_time(oldest)}")
    for each in told:
        paused = f"  asks for a pause of {each.paused:.0f} s" if each.paused else ""
        print(f"server   {_host_and_project(each.target)}  {each.held.waiting}{paused}")


def clear_shared(url: str) -> None:
    """Delete what waits in an engine."""
    from usercontext.sentry.delivery.forwarding import clear_engine

    print(f"{clear_engine(url)} deleted")


def _host_and_project(target: str) -> str:
    # Without the key: whoever has it can send reports.
    return visible(target.rpartition("@")[2])
