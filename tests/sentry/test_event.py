"""What an exception looks like in a report."""

from __future__ import annotations

import ctypes
import os
import re
import time
from typing import Any

import pytest

from usercontext.sentry.event.builder import EventBuilder
from usercontext.sentry.event.stacktrace import StackTraces


class OddError(Exception):
    """Raises where others speak."""

    def __str__(self) -> str:
        raise ValueError("no")


def build(error: BaseException, *, handled: bool = True) -> Any:
    """Return the event of an exception."""
    return EventBuilder(StackTraces()).exception(error, level="error", handled=handled)


def values(error: BaseException) -> list[Any]:
    """Return what the event tells of an exception and those it came from."""
    found: list[Any] = build(error)["exception"]["values"]
    return found


def chain_of(error: BaseException) -> list[str]:
    """Return the texts of those."""
    return [value["value"] for value in values(error)]


def linked(*texts: str, link: str = "__cause__") -> BaseException:
    """Return an exception that came from others, the first text being the oldest."""
    error = ValueError(texts[0])
    for text in texts[1:]:
        newer = ValueError(text)
        setattr(newer, link, error)
        error = newer
    return error


def test_common_fields() -> None:
    """Every event says when, where and of what it is."""
    builder = EventBuilder(StackTraces(), release="1.0", environment="test", server_name="web-1")
    event = builder.message("hello", level="warning")

    assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", event["event_id"])
    assert abs(event["timestamp"] - time.time()) < 60
    assert event["platform"] == "python"
    assert event["level"] == "warning"
    assert (event["release"], event["environment"]) == ("1.0", "test")
    assert event["server_name"] == "web-1"
    assert event["contexts"]["runtime"]["name"] == "CPython"


def test_message() -> None:
    """A message stands in `logentry`."""
    event = EventBuilder(StackTraces()).message("100 % of %s", level="info")

    assert event["logentry"]["formatted"] == "100 % of %s"


def test_ids_differ() -> None:
    """No two events have one id."""
    ids = {build(ValueError())["event_id"] for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", one) for one in ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_ids_differ_after_a_fork_that_python_does_not_see() -> None:
    """A server that forks in C, as uwsgi does, has no two workers name their events alike."""
    build(ValueError())
    reader, writer = os.pipe()
    for _ in range(2):
        if ctypes.CDLL(None).fork() == 0:
            os.write(writer, build(ValueError())["event_id"].encode())
            os._exit(0)
        os.wait()
    ids = os.read(reader, 64), build(ValueError())["event_id"]
    os.close(reader)
    os.close(writer)

    assert len({ids[0][:32], ids[0][32:], ids[1].encode()}) == 3


@pytest.mark.parametrize(
    ("level", "sent"),
    [("critical", "fatal"), ("warn", "warning"), ("debug", "debug"), ("nonsense", "error")],
)
def test_level(level: str, sent: str) -> None:
    """Levels of logging are spelled as the protocol has them; unknown ones are errors."""
    assert EventBuilder(StackTraces()).message("x", level=level)["level"] == sent


def test_exception() -> None:
    """A lone exception has its type, text, module and frames."""
    try:
        raise OddError
    except OddError as error:
        (value,) = values(error)

    assert value["type"] == "OddError"
    assert value["module"] == __name__
    assert value["mechanism"] == {"type": "generic", "handled": True}
    assert value["stacktrace"]["frames"][-1]["context_line"] == "        raise OddError"


def test_unhandled() -> None:
    """An unhandled exception says so."""
    (value,) = build(ValueError(), handled=False)["exception"]["values"]

    assert value["mechanism"]["handled"] is False


def test_builtins_have_no_module() -> None:
    """A built-in exception needs no module."""
    assert "module" not in values(ValueError("x"))[0]


def test_causes_are_oldest_first() -> None:
    """The oldest cause comes first, the exception itself last."""
    assert chain_of(linked("oldest", "middle", "newest")) == ["oldest", "middle", "newest"]


def test_contexts_are_oldest_first() -> None:
    """So it is with contexts."""
    assert chain_of(linked("old", "new", link="__context__")) == ["old", "new"]


def test_mechanisms_tell_the_chain() -> None:
    """Each one that came from another says from which, and how."""
    old, new = values(linked("old", "new"))

    assert new["mechanism"]["exception_id"] == 0
    assert old["mechanism"]["exception_id"] == 1
    assert old["mechanism"]["parent_id"] == 0
    assert old["mechanism"]["source"] == "__cause__"


def test_cause_beats_context() -> None:
    """With a cause, the context is not told."""
    error = ValueError("x")
    error.__context__ = ValueError("context")
    error.__cause__ = ValueError("cause")

    assert chain_of(error) == ["cause", "x"]


def test_suppressed_context() -> None:
    """`raise ... from None` hides the context."""
    error = ValueError("x")
    error.__context__ = ValueError("context")
    error.__suppress_context__ = True

    assert chain_of(error) == ["x"]


def test_group() -> None:
    """A group is followed by its members, flattened, each naming its parent."""
    inner = ExceptionGroup("inner", [KeyError("a")])
    found = values(ExceptionGroup("outer", [ValueError("b"), inner]))

    assert [value["value"].split(" (")[0] for value in found] == ["'a'", "inner", "b", "outer"]
    key_error, inner_group, value_error, outer = [value["mechanism"] for value in found]
    assert outer["is_exception_group"]
    assert inner_group["is_exception_group"]
    assert inner_group["source"] == "exceptions[1]"
    assert value_error["source"] == "exceptions[0]"
    assert key_error["parent_id"] == inner_group["exception_id"]


def test_cycle() -> None:
    """Causes that form a circle are told once each."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert chain_of(first) == ["second", "first"]


def test_own_cause() -> None:
    """An exception may be its own context."""
    error = ValueError("x")
    error.__context__ = error

    assert chain_of(error) == ["x"]


def test_endless_chain() -> None:
    """Of a long chain the newest 50 are told."""
    found = chain_of(linked(*map(str, range(5000))))

    assert len(found) == 50
    assert found[-1] == "4999"


def test_deep_groups() -> None:
    """Groups in groups end somewhere, without recursion."""
    error: Exception = ValueError("x")
    for _ in range(3000):
        error = ExceptionGroup("g", [error])

    assert len(values(error)) == 50


def test_str_raises() -> None:
    """An exception that cannot be printed is reported all the same."""
    assert values(OddError())[0]["value"] == "<unprintable OddError: __str__ raised ValueError>"


def test_str_is_huge() -> None:
    """Of a text of 10 MB the beginning is sent."""
    text = values(ValueError("x" * 10_000_000))[0]["value"]

    assert len(text) == 8192
    assert text.endswith("x…")


def test_notes() -> None:
    """Notes stand below the text."""
    error = ValueError("x")
    error.add_note("look here")

    assert values(error)[0]["value"] == "x\nlook here"


def test_odd_notes() -> None:
    """Notes that are none are passed over."""
    error = ValueError("x")
    error.__notes__ = 7  # type: ignore[assignment]

    assert values(error)[0]["value"] == "x"
