"""An event's JSON is valid and within limits, whatever stands in the event."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.extra_values import safe_str
from usercontext.sentry.event.payload import MAX_BYTES, encode_event, plain

if TYPE_CHECKING:
    from collections.abc import Callable


class Raises:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class OddStr(str):
    """Lies about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no")


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

VALUES = {
    "bytes": (b"caf\xc3\xa9\xff", "café\ufffd"),
    "lone surrogate": ("a\ud800b", "a\ufffdb"),
    "surrogate key": ({"\udfff": 1}, {"\ufffd": 1}),
    "NaN": (math.nan, "nan"),
    "infinity": (-math.inf, "-inf"),
    "64 bits": (2**63 - 1, 2**63 - 1),
    "65 bits": (2**64, str(2**64)),
    "negative": (-(2**64), str(-(2**64))),
    "longer than str() takes": (10**5000, f"{hex(10**5000 >> 16546)}…"),
    "tuple": ((1, "a"), [1, "a"]),
    "set": ({1}, [1]),
    "int key": ({1: "a"}, {"1": "a"}),
    "tuple key": ({(1, 2): "a"}, {"(1, 2)": "a"}),
    "UUID": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "datetime": (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    "decimal": (Decimal("1.50"), "1.50"),
    "unprintable": (Raises(), "<unprintable Raises: __str__ raised RuntimeError>"),
    "odd str": (OddStr("abc"), "abc"),
    "bool": (True, True),
}


@pytest.mark.parametrize(("value", "shown"), VALUES.values(), ids=VALUES)
def test_any_value(value: object, shown: object) -> None:
    """What JSON has no word for becomes a string, and nothing is refused."""
    payload = encode_event({"extra": {"value": value}})

    assert payload is not None
    assert json.loads(payload)["extra"]["value"] == shown


def test_cycle() -> None:
    """A value that holds itself ends somewhere."""
    payload = encode_event({"extra": CYCLE})

    assert payload is not None
    assert json.loads(payload)["extra"] == {"self": "…"}


def parents_and_children() -> Any:
    """Return a tree whose nodes know each other: paths through it are without end."""
    root: dict[str, Any] = {"name": "root"}
    root["children"] = [{"name": str(number), "parent": root} for number in range(9)]
    return root


def everybody_knows_everybody() -> Any:
    """Return lists each of which holds all the others."""
    lists: list[list[Any]] = [[] for _ in range(30)]
    for one in lists:
        one.extend(lists)
    return lists


def doubled() -> Any:
    """Return a value that holds one twice, which holds one twice, and so on."""
    value: Any = "x"
    for _ in range(31):
        value = [value, value]
    return value


ENDLESS = {
    "tree": parents_and_children,
    "graph": everybody_knows_everybody,
    "doubled": doubled,
    "long texts": lambda: ["x" * 1_000_000] * 1_000_000,
    "long keys": lambda: [{"x" * 1_000_000: 1}] * 100_000,
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_endless(make: Callable[[], Any]) -> None:
    """Small values that refer to each other make no copy without end."""
    event = {"extra": {"x": make()}, "user": {"id": "7"}}
    payload = encode_event(plain(event))

    assert payload is not None
    assert json.loads(payload)["user"] == {"id": "7"}


def test_what_contains_itself_is_cut_there() -> None:
    """The rest of it is told."""
    tree = plain({"x": parents_and_children()})["x"]

    assert tree["children"][8] == {"name": "8", "parent": "…"}


def test_told_twice() -> None:
    """A value that stands at two places is told at both."""
    shared = {"a": 1}

    assert plain({"x": [shared, shared]}) == {"x": [{"a": 1}, {"a": 1}]}


def test_many_small_items() -> None:
    """As many items as an event can hold are told."""
    event = {"extra": [0] * (MAX_BYTES // 2 - 10)}

    assert json.loads(encode_event(plain(event)) or b"") == event


def test_unreadable() -> None:
    """A mapping that raises costs itself alone."""

    class Broken(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("hunter2")

    event = plain({"extra": {"a": Broken(a=1), "b": 2}})

    assert event == {"extra": {"a": "<unreadable Broken: RuntimeError>", "b": 2}}


def test_changed_meanwhile() -> None:
    """A payload is a copy: what the app changes later is not in it."""
    value = {"list": [1, 2]}
    copy = plain(value)
    value["list"].append(3)

    assert copy == {"list": [1, 2]}


def test_safe_str_cuts() -> None:
    """A long text is cut, and the cut is marked."""
    assert safe_str("abcdef", 4) == "abc…"
    assert safe_str("abcd", 4) == "abcd"
    assert safe_str(OddStr("abcdef"), 4) == "abc…"


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(
        st.characters(exclude_categories=())
    ) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(), nested))
def test_always_json(event: dict[str, Any]) -> None:
    """Whatever an event holds, its JSON can be read again."""
    payload = encode_event(event)

    assert payload is not None
    assert json.loads(payload.decode()) == json.loads(json.dumps(plain(event)))


def big_event(part: str, size: int = MAX_BYTES) -> dict[str, Any]:
    """Return an event that is too large for the sake of one part."""
    frame: dict[str, Any] = {"function": "f", "context_line": "x"}
    frames = [dict(frame, lineno=n) for n in range(40)]
    text = "a" * size
    event: dict[str, Any] = {
        "event_id": "ab" * 16,
        "exception": {"values": [{"type": "E", "stacktrace": {"frames": frames}}]},
        "user": {"id": "7"},
        "extra": {"small": 1},
    }
    if part == "locals":
        frames[3]["vars"] = {"a": text}
    elif part == "source":
        frames[3]["pre_context"] = [text]
    elif part == "frames":
        frames[20]["module"] = text
    elif part == "extra":
        event["extra"] = {"a": text}
    else:
        event["user"]["data"] = {"a": text}
    return event


def shrunk(part: str) -> Any:
    """Return what is sent of an event that is too large."""
    payload = encode_event(big_event(part))
    assert payload is not None
    assert len(payload) <= MAX_BYTES
    return json.loads(payload)


def frames_of(event: Any) -> Any:
    """Return the frames of an event."""
    return event["exception"]["values"][0]["stacktrace"]["frames"]


def test_locals_go_first() -> None:
    """An event that is too large loses its local variables, and nothing else."""
    event = shrunk("locals")

    assert not any("vars" in frame for frame in frames_of(event))
    assert len(frames_of(event)) == 40
    assert event["extra"] == {"small": 1}


def test_source_lines_go_second() -> None:
    """Then the lines around the failing ones."""
    event = shrunk("source")

    assert not any("pre_context" in frame for frame in frames_of(event))
    assert all(frame["context_line"] == "x" for frame in frames_of(event))


def test_middle_frames_go_third() -> None:
    """Then the frames in the middle."""
    assert [frame["lineno"] for frame in frames_of(shrunk("frames"))] == [
        0, 1, 2, 3, 4, 35, 36, 37, 38, 39,
    ]  # fmt: skip


def test_extra_goes_last() -> None:
    """Then extra; the user is never shed."""
    event = shrunk("extra")

    assert "extra" not in event
    assert event["user"] == {"id": "7"}


def test_too_large_for_all_that() -> None:
    """What is too large even then is nothing to send."""
    assert encode_event(big_event("user")) is None


def test_shrinking_leaves_the_event() -> None:
    """Shrinking works on a copy."""
    event = big_event("locals")
    encode_event(event)

    assert frames_of(event)[3]["vars"]


def test_limit_is_exact() -> None:
    """An event of 1 MiB is sent as it is, one byte more is not."""
    empty = len(encode_event({"extra": ""}) or b"")
    exact = {"extra": "a" * (MAX_BYTES - empty)}

    assert json.loads(encode_event(exact) or b"")["extra"]
    assert "extra" not in json.loads(encode_event({"extra": exact["extra"] + "a"}) or b"")
