"""JSON with and without orjson."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.sentry import encode_event
from usercontext.sentry.event import json_text

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def without_orjson(event: dict[str, Any]) -> bytes | None:
    """Return what is sent where orjson is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_fast", None)
        return encode_event(event)


def read(payload: bytes | None) -> Any:
    """Return what a server reads."""
    assert payload is not None
    return json.loads(payload)


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_same_values(event: dict[str, Any]) -> None:
    """Whether orjson is installed or not, servers read the same."""
    pytest.importorskip("orjson")

    assert read(encode_event(event)) == read(without_orjson(event))


class Colour(Enum):
    RED = "r"


class Level(IntEnum):
    HIGH = 7


class Name(str):
    __slots__ = ()


ODD: dict[str, Any] = {
    "an enum": Colour.RED,
    "an enum of numbers": Level.HIGH,
    "a kind of string": Name("x"),
    "a UUID": uuid.UUID(int=7),
    "a time": datetime(2026, 5, 4, tzinfo=UTC),
    "a date": date(2026, 5, 4),
    "NaN": float("nan"),
    "bytes": b"x",
    "a tuple": (1, 2),
    "a key that is a number": {1: 2},
    "a long number": 2**63,
    "a surrogate": "\ud800",
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_same_texts(value: object) -> None:
    """So it is with what is not JSON, of which orjson would write some in its own way."""
    pytest.importorskip("orjson")
    event = {"extra": {"x": value}}

    assert read(encode_event(event)) == read(without_orjson(event))
