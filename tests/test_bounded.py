"""By whichever door a value comes in, its copy is JSON, within limits, and marked where cut."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from collections import UserDict
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext import extra_values
from usercontext.extra_values import Limits, bounded, bounded_extras
from usercontext.request.body import BODY, copied
from usercontext.sentry.event.local_variables import VARIABLES
from usercontext.sentry.event.payload import EVENT, plain


class Plan(enum.Enum):
    """A choice of the app's own."""

    GOLD = "gold"
    SILVER = 2


class Level(enum.IntEnum):
    """A choice that is a number."""

    HIGH = 3


class Words(str):
    """A string of the app's own kind."""

    __slots__ = ()


def by_extras(value: Any) -> Any:
    """Return what becomes of a user's extra value."""
    return bounded_extras({"a": [value]}, fields=frozenset())["a"][0]


def by_body(value: Any) -> Any:
    """Return what becomes of a value in a request's data."""
    return copied({"a": value}, hides=lambda _text: False)["a"]


def by_event(value: Any) -> Any:
    """Return what becomes of a value in an event."""
    return plain({"extra": {"a": value}})["extra"]["a"]


DOORS = pytest.mark.parametrize("door", [by_extras, by_body, by_event])
UTC = datetime.UTC

COPIES: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "true": (True, True),
    "integer": (7, 7),
    "63 bits": (2**63 - 1, 2**63 - 1),
    "64 bits": (2**63, "9223372036854775808"),
    "negative": (-(2**64), "-18446744073709551616"),
    "900 digits": (10**900, str(10**900)),
    "float": (1.5, 1.5),
    "not a number": (float("nan"), "nan"),
    "infinity": (float("-inf"), "-inf"),
    "string of a subclass": (Words("gold"), "gold"),
    "lone surrogate": ("a\ud800", "a\ufffd"),
    "pair of surrogates": ("\ud83d\ude00", "😀"),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(3, 4), "03:04:00"),
    "Decimal": (decimal.Decimal("1.50"), "1.50"),
    "UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "Enum of a string": (Plan.GOLD, "gold"),
    "Enum of an int": (Plan.SILVER, "2"),
    "IntEnum": (Level.HIGH, "3"),
    "tuple": ((1, ("x", "y", 2)), [1, ["x", "y", 2]]),
    "mapping": (UserDict(a=UserDict(b=1)), {"a": {"b": 1}}),
    "names": (
        {1: "a", Plan.GOLD: "b", uuid.UUID(int=0): "c", "\udfff": "d"},
        {"1": "a", "gold": "b", "00000000-0000-0000-0000-000000000000": "c", "\ufffd": "d"},
    ),
}


@DOORS
@pytest.mark.parametrize(("value", "copy"), COPIES.values(), ids=COPIES)
def test_one_answer_by_every_door(door: Any, value: Any, copy: Any) -> None:
    """What a value becomes does not depend on where it stands."""
    assert repr(door(value)) == repr(copy)


@DOORS
def test_integers_too_long_to_print(door: Any) -> None:
    """The first digits are told, and the cut is marked."""
    copy = door(1 << 40_000)
    assert copy.startswith("0x8000000000000000")
    assert copy.endswith(("...[cut]", "...", "…"))


@DOORS
def test_what_contains_itself_is_cut_there(door: Any) -> None:
    """The rest of it is told."""
    tree: dict[str, Any] = {"name": "root"}
    tree["child"] = {"parent": tree, "name": "leaf"}
    copy = door(tree)
    assert copy["child"].pop("parent") in {"...[cut]", "...", "…"}
    assert copy == {"name": "root", "child": {"name": "leaf"}}


@DOORS
def test_told_twice(door: Any) -> None:
    """A value that stands at two places is told at both."""
    shared = {"a": 1}
    assert door([shared, shared]) == [{"a": 1}, {"a": 1}]


def test_pairs_of_a_body() -> None:
    """A form's fields may be a list of pairs, and their secrets are withheld as a mapping's."""
    pairs = [("name", "ada"), ("password", "hunter2"), [b"Authorization", "Bearer x"]]
    assert copied(pairs, hides=lambda _text: False) == [
        ["name", "ada"], ["password", "[Filtered]"], ["<13 bytes>", "[Filtered]"],
    ]  # fmt: skip


# --- the rule -------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=(), exclude_characters="….[")) | st.text(
    '\x00\n"\\é😀\x7f', max_size=60
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.integers(min_value=2**63).map(lambda number: number**9)
    | st.dates()
    | st.uuids()
    | st.sampled_from([*Plan, *Level])
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(texts | st.integers() | st.dates(), inner)
        | inner.map(lambda value: [value] * 30)
    ),
    max_leaves=8,
)


def limits_of(**options: Any) -> Limits:
    """Make limits by which nothing is refused."""
    return Limits(unusable=lambda value: f"<{type(value).__name__}>", **options)


small = st.builds(
    limits_of,
    depth=st.integers(0, 4),
    size=st.integers(100, 600),
    cut=st.sampled_from(["…", "...", "...[cut]"]),
    keys=st.integers(1, 8),
    items=st.integers(1, 8),
    text=st.integers(20, 80),
    each=st.integers(0, 20),
    tells_more=st.booleans(),
)
limits = small | st.sampled_from([extra_values.EXTRAS, BODY, EVENT, VARIABLES]).filter(
    lambda one: one.unusable is not None
)


def depth_of(value: Any) -> int:
    """Count how many containers lie in each other."""
    parts = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, parts), default=0) if isinstance(value, dict | list) else 0


def parts_of(value: Any) -> list[Any]:
    """Return a value and all that is in it, keys included."""
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list):
        inner = value
    return [value, *(part for one in inner for part in parts_of(one))]


@given(values, limits)
def test_within_limits(value: Any, limits: Limits) -> None:
    """Depth, width, length and size hold, and the copy is JSON that UTF-8 can carry."""
    copy = bounded(value, limits)
    text = json.dumps(copy, ensure_ascii=False, allow_nan=False)
    assert json.loads(text) == copy
    parts = parts_of(copy)
    assert depth_of(copy) <= limits.depth
    assert all(len(part) <= limits.keys for part in parts if isinstance(part, dict))
    assert all(len(part) <= limits.items for part in parts if isinstance(part, list))
    assert all(len(part.encode()) <= limits.text for part in parts if isinstance(part, str))
    assert len(text.encode()) <= limits.size * (6 if limits is EVENT else 1)


@given(values, limits)
def test_the_value_stays_as_it_is(value: Any, limits: Limits) -> None:
    """Nothing of the app's is changed, and nothing of it is in the copy."""
    before = deepcopy(value)
    copy = bounded(value, limits)
    assert repr(value) == repr(before)
    of_app = {id(part) for part in parts_of(value) if isinstance(part, dict | list)}
    assert of_app.isdisjoint(id(part) for part in parts_of(copy) if isinstance(part, dict | list))


@given(values, small)
def test_cuts_are_marked(value: Any, limits: Limits) -> None:
    """A copy without a mark is the whole value."""
    whole = bounded(value, limits_of(depth=99, size=10**9, cut=limits.cut))
    copy = bounded(value, limits)
    assert copy == whole or limits.cut in json.dumps(copy, ensure_ascii=False)


@given(values, small)
def test_what_was_bounded_stays_as_it_is(value: Any, limits: Limits) -> None:
    """A copy that is not cut is its own copy."""
    copy = bounded(value, limits)
    if limits.cut not in json.dumps(copy, ensure_ascii=False):
        assert bounded(copy, limits) == copy


def test_endless_sequences() -> None:
    """A sequence of the app's own that does not end is cut."""

    class Endless(list[int]):
        def __iter__(self) -> Any:
            while True:
                yield 1

    copy = by_extras(Endless())
    assert copy[-1] == "...[cut]"
