"""Exceptions and values at their limits, all the way to a server."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.sentry.event.payload import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sentry.server import SentryServer
    from usercontext.sentry import SentryClient


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class ExhaustedError(Exception):
    def __str__(self) -> str:
        raise MemoryError


class EndlessError(Exception):
    def __str__(self) -> str:
        return str(self)


def caused_by_itself() -> Exception:
    """Return an exception that is its own cause's cause."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def group_in_itself() -> Exception:
    """Return a group one of whose members came from the group."""
    member = ValueError("member")
    group = ExceptionGroup("group", [member])
    member.__cause__ = group
    return group


def groups_of_groups() -> Exception:
    """Return groups nested deeper than the interpreter may call."""
    error: Exception = ValueError("innermost")
    for _ in range(2 * sys.getrecursionlimit()):
        error = ExceptionGroup("group", [error])
    return error


def wide_group() -> Exception:
    """Return a group of groups with ten thousand members."""
    return ExceptionGroup("g", [ExceptionGroup("h", [ValueError(n) for n in range(100)])] * 100)


def recursion() -> Exception:
    """Return what endless recursion raises."""

    def call() -> None:
        call()

    try:
        call()
    except RecursionError as error:
        return error
    raise AssertionError


def out_of_memory() -> Exception:
    """Return what Python raises when there is no more memory."""
    try:
        bytearray(sys.maxsize)
    except MemoryError as error:
        return error
    raise AssertionError


def long_name() -> Exception:
    """Return an exception whose class has a name of 5 MB, and a module of another."""
    return type("E" * 5_000_000, (Exception,), {"__module__": "m" * 5_000_000})()


ERRORS: dict[str, Callable[[], Exception]] = {
    "cyclic causes": caused_by_itself,
    "a group in itself": group_in_itself,
    "deep groups": groups_of_groups,
    "wide groups": wide_group,
    "str raises": UnprintableError,
    "str has no memory": ExhaustedError,
    "str never ends": EndlessError,
    "10 MB": lambda: ValueError("x" * 10_000_000),
    "10 MB of arguments": lambda: ValueError(["x" * 1_000_000] * 10),
    "recursion": recursion,
    "no memory": out_of_memory,
    "surrogates": lambda: ValueError("\ud800 and \udfff"),
    "bytes": lambda: ValueError(b"\xff\x00"),
    "a huge int": lambda: ValueError(10**5000),
    "NaN": lambda: ValueError(math.nan),
    "NUL": lambda: ValueError("\0\x1b"),
    "a name of 5 MB": long_name,
}


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_exception(
    server: SentryServer, make_client: Callable[..., SentryClient], make: Callable[[], Exception]
) -> None:
    """Whatever is wrong with an exception, it arrives, and no larger than a server takes."""
    error = make()
    try:
        raise error
    except type(error):
        event_id = make_client(server.dsn, include_local_variables=True).capture_exception()
    client = make_client(server.dsn)
    client.capture_exception(error)
    client.flush(20.0)

    assert event_id is not None
    assert server.received[-1].size < MAX_BYTES
    assert server.events[-1]["exception"]["values"][-1]["type"][:500] == type(error).__name__[:500]


VALUES: dict[str, Any] = {
    "a surrogate": "\ud800",
    "bytes": b"\xff",
    "a huge int": 10**5000,
    "a long int": -(2**64),
    "NaN": math.nan,
    "infinity": -math.inf,
    "an object": object(),
    "odd keys": {1: 2, None: 3, b"\xff": 4, "\ud800": 5},
    "a set": {1},
    "10 MB": "x" * 10_000_000,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_value(
    server: SentryServer, make_client: Callable[..., SentryClient], value: object
) -> None:
    """Whatever `before_send` puts into an event, the event arrives."""
    client = make_client(server.dsn, before_send=lambda event: {**event, "extra": {"x": value}})
    event_id = client.capture_message("x")

    assert client.flush(20.0)
    assert [event["event_id"] for event in server.events] == [event_id]
    assert server.received[0].size < MAX_BYTES


def test_cyclic_value(server: SentryServer, make_client: Callable[..., SentryClient]) -> None:
    """A value that contains itself is cut."""
    value: list[Any] = []
    value.append(value)
    client = make_client(server.dsn, before_send=lambda event: {**event, "extra": {"x": value}})
    client.capture_message("x")

    assert client.flush(20.0)
    assert client.stats()["sent"] == 1
