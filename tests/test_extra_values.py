"""Extra values are copied as JSON values, and what does not fit is visibly cut."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from collections import UserDict, deque
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usercontext.exceptions import InvalidUserError
from usercontext.extra_values import CUT, bounded_extras


class Plan(enum.Enum):
    """A choice of the app's own."""

    GOLD = "gold"
    SILVER = 2
    BRONZE = 1.5


class Colour(enum.StrEnum):
    """A choice that is a string."""

    RED = "red"


class Words(str):
    """A string of the app's own kind."""

    __slots__ = ()


class Ratio(float):
    """A float of the app's own kind."""


def extras(**mapping: Any) -> dict[str, Any]:
    """Copy extra values, none of which is a field."""
    return bounded_extras(mapping, fields=frozenset({"id"}))


def depth_of(value: Any) -> int:
    """Count how many containers lie in each other."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def size_of(value: Any) -> int:
    """Count the bytes of a value as JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False).encode())


UTC = datetime.UTC

COPIES = {
    "string": ("gold", "gold"),
    "empty string": ("", ""),
    "string of a subclass": (Words("gold"), "gold"),
    "true": (True, True),
    "zero": (0, 0),
    "largest integer": (2**63 - 1, 2**63 - 1),
    "larger integer": (2**63, "9223372036854775808"),
    "smaller integer": (-(2**63), "-9223372036854775808"),
    "float": (1.5, 1.5),
    "float of a subclass": (Ratio(-0.0), -0.0),
    "no number": (float("nan"), "nan"),
    "infinity": (float("-inf"), "-inf"),
    "list": ([1, None], [1, None]),
    "tuple": ((1, (2,)), [1, [2]]),
    "dict": ({"a": {"b": None}}, {"a": {"b": None}}),
    "mapping": (UserDict(a=UserDict(b=1)), {"a": {"b": 1}}),
    "keys": (
        {1: "a", Words("b"): "b", Plan.GOLD: "c", uuid.UUID(int=0): "d"},
        {"1": "a", "b": "b", "gold": "c", "00000000-0000-0000-0000-000000000000": "d"},
    ),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(3, 4), "03:04:00"),
    "Decimal": (decimal.Decimal("1.50"), "1.50"),
    "UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "Enum of a string": (Plan.GOLD, "gold"),
    "Enum of an int": (Plan.SILVER, "2"),
    "Enum of another": (Plan.BRONZE, "BRONZE"),
    "StrEnum": (Colour.RED, "red"),
    "pair of surrogates": ("\ud83d\ude00", "😀"),
    "lone surrogate": ("a\ud800", "a\ufffd"),
}

REFUSED = {
    "bytes": b"gold",
    "set": {1},
    "deque": deque([1]),
    "complex": 1j,
    "timedelta": datetime.timedelta(1),
    "object": object(),
    "class": Plan,
    "function": len,
    "generator": (x for x in ()),
}


@pytest.mark.parametrize(("value", "copy"), COPIES.values(), ids=COPIES)
def test_values_become_json_values(value: Any, copy: Any) -> None:
    """JSON values stay, others that have one spelling become strings, of the plain types."""
    assert repr(extras(a=value)) == repr({"a": copy})


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_other_values_are_refused(value: Any) -> None:
    """What JSON has no word for raises, naming the extra and the kind of value."""
    with pytest.raises(InvalidUserError, match=rf"^extra 'plan' .* {type(value).__name__}:"):
        extras(plan={"a": [value]})


@pytest.mark.parametrize("key", [True, None, 1.5, (1,), b"a", object()])
def test_other_keys_are_refused(key: Any) -> None:
    """A key that JSON would silently turn into another one raises."""
    with pytest.raises(InvalidUserError, match=r"^a key of extra 'plan'"):
        extras(plan={key: 1})


def test_a_key_that_is_no_name_is_not_named() -> None:
    """A key may itself be a user's data, and then is left out of the message."""
    with pytest.raises(InvalidUserError, match=r"^an extra is"):
        extras(**{"ann@example.org": object()})


def test_fields_and_none_are_left_out() -> None:
    """The keys of fields are not extras, and None is absent, as it is for a field."""
    assert extras(id=1, a=None, b={"id": 2, "c": None}) == {"b": {"id": 2, "c": None}}


def test_the_fifth_level_is_cut() -> None:
    """Four containers in each other are kept."""
    assert extras(a=[[[[1]]]]) == {"a": [[[[1]]]]}
    assert extras(a=[[[[1, [], {}]]]]) == {"a": [[[[1, CUT, CUT]]]]}
    assert extras(a={"b": {"c": {"d": {"e": 1}}}}) == {"a": {"b": {"c": {"d": {"e": 1}}}}}


def test_the_65th_key_is_cut() -> None:
    """A mapping of more than 64 keys has 64, the last of which says so."""
    keys = [f"k{number}" for number in range(65)]
    assert extras(**dict.fromkeys(keys[:64], 1)) == dict.fromkeys(keys[:64], 1)
    assert extras(**dict.fromkeys(keys, 1)) == dict.fromkeys(keys[:63], 1) | {CUT: True}
    assert extras(a=dict.fromkeys(keys, 1))["a"] == dict.fromkeys(keys[:63], 1) | {CUT: True}


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
def test_strings_are_cut_at_a_kibibyte(letter: str) -> None:
    """A KiB of UTF-8 is kept whole; a longer text is cut between characters and says so."""
    whole = letter * (1024 // len(letter.encode()))
    cut = extras(a=whole, b=whole + letter)
    assert cut["a"] == whole
    assert cut["b"].removesuffix(CUT) in whole
    assert cut["b"].endswith(CUT)
    assert 1020 < len(cut["b"].encode()) <= 1024


def test_keys_are_cut_as_strings_are() -> None:
    """A key is a string too."""
    (key,) = extras(**{"k" * 2000: 1})
    assert key == "k" * (1024 - len(CUT)) + CUT


@pytest.mark.parametrize("number", [10**900, -(10**900)])
def test_large_integers_are_printed(number: int) -> None:
    """An integer that can be printed in time comes out whole."""
    assert extras(a=number) == {"a": str(number)}


@pytest.mark.parametrize("number", [1 << 40_000, -1 << 40_000], ids=["positive", "negative"])
def test_huge_integers_are_cut(number: int) -> None:
    """An integer that Python itself would not print is cut, and says so."""
    assert extras(a=number)["a"].endswith(CUT)


def test_all_is_kept_up_to_8_kib() -> None:
    """What fits as a whole is not touched."""
    mapping = {f"k{number}": "x" * 1000 for number in range(8)}
    assert extras(**mapping) == mapping


def test_more_than_8_kib_is_cut() -> None:
    """What comes first is kept, and each container that lost something says so."""
    cut = extras(a="x" * 1000, b=["y" * 1000] * 20, c=1)
    assert cut == {"a": "x" * 1000, "b": [*["y" * 1000] * 7, CUT], "c": 1}


@pytest.mark.parametrize("length", range(0, 1000, 100))
def test_marks_count_as_well(length: int) -> None:
    """The marks of what is cut are within the bound, not on top of it."""
    wide = {str(number): 1 for number in range(65)}
    assert size_of(extras(a=[wide] * 14, b="x" * length)) <= 8192


def test_many_small_values_are_kept() -> None:
    """The room that marks of cuts would need is not taken from what is not cut."""
    mapping = {"a": [{}] * 1800}
    assert extras(**mapping) == mapping


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text('\x00\n"\\é😀\x7f\xa0', max_size=5).map(lambda text: text * 500)
    | st.integers(min_value=2**63).map(lambda number: number**40),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.text(min_size=1).map(lambda text: text * 300), inner)
        | inner.map(lambda value: [value] * 200)
        | inner.map(lambda value: {str(number): value for number in range(100)})
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), values))
@example({"a": [[], {}] * 3000})
@example({"a": [[[[1] * 9] * 9] * 9] * 9})
@example({"a": [{"a": [{}] * 30}] * 100})
def test_bounds_hold(mapping: dict[str, Any]) -> None:
    """Whatever comes in, what comes out is JSON of bounded depth, width, strings and size."""
    result = bounded_extras(mapping, fields=frozenset())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert size_of(result) <= 8192
    assert depth_of(result) <= 1 + 4


@given(st.dictionaries(st.text(), values))
def test_what_was_bounded_stays_as_it_is(mapping: dict[str, Any]) -> None:
    """Bounding twice is bounding once, so a user can be made of its own `to_dict()`."""
    once = bounded_extras(mapping, fields=frozenset())
    assert bounded_extras(once, fields=frozenset()) == once
