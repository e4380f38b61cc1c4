"""Reports from subinterpreters, most of which let no daemon thread run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sentry.server import SentryServer

SUBINTERPRETER = """
import sys

def create(kind):
    if kind == "public":
        from concurrent import interpreters
        interpreter = interpreters.create()
        return interpreter.exec, interpreter.close
    import _interpreters
    number = _interpreters.create(kind)

    def run(code):
        failure = _interpreters.run_string(number, code)
        assert failure is None, failure.formatted

    return run, lambda: _interpreters.destroy(number)

kind, path, code = sys.argv[1:]
run, close = create(kind)
run(f"import sys; sys.path[:] = {sys.path!r}\\n{code}")
close()
print("closed")
"""

REPORTS = """
import asyncio
import usercontext

async def asynchronous(_):
    return {{"id": "ada"}}

usercontext.init({dsn!r})
with usercontext.isolation_scope(resolver=asynchronous):
    usercontext.capture_message("asked from a thread")

async def main():
    with usercontext.isolation_scope(resolver=lambda _: {{"id": "bob"}}):
        await usercontext.resolve_user()
        usercontext.capture_message("asked from a loop")

asyncio.run(main())
"""


def kinds() -> Iterator[str]:
    """Yield the kinds of subinterpreters that this Python makes."""
    if sys.version_info >= (3, 14):
        yield "public"
    if sys.version_info >= (3, 13):
        yield from ("isolated", "legacy")


@pytest.mark.parametrize("kind", [*kinds()])
def test_a_subinterpreter_sends_its_reports(kind: str, server: SentryServer) -> None:
    """With daemon threads, or without as most have none, and closing it ends no process."""
    command = [sys.executable, "-c", SUBINTERPRETER, kind, "", REPORTS.format(dsn=server.dsn)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert done.stdout == "closed\n", done.stderr
    assert [event["user"]["id"] for event in server.events] == ["ada", "bob"]
