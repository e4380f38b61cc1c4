"""Each check of an option lets through what can be used, and says of the rest what to write."""

from __future__ import annotations

import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from usercontext import ConfigurationError, checks

if TYPE_CHECKING:
    from collections.abc import Callable


def plain(event: Any) -> Any:
    """Return an event."""
    return event


async def awaited(event: Any) -> Any:
    """Return an event to whoever awaits it."""
    return event


async def yielding(event: Any) -> Any:
    """Yield an event."""
    yield event


class Awaited:
    async def __call__(self, event: Any) -> Any:
        return event


TAKEN: list[tuple[Callable[..., Any], Any, Any]] = [
    (checks.flag, True, True),
    (checks.flag, False, False),
    (checks.count, 1, 1),
    (checks.seconds, 0.5, 0.5),
    (checks.seconds, 2, 2.0),
    (checks.seconds, timedelta(minutes=1), 60.0),
    (partial(checks.seconds, least=0), 0, 0.0),
    (checks.function, plain, plain),
    (checks.function, None, None),
    (checks.function, dict, dict),
]


@pytest.mark.parametrize(("check", "value", "result"), TAKEN)
def test_what_can_be_used_is_returned(check: Any, value: Any, result: Any) -> None:
    """A right value comes back in the form in which it is used."""
    returned = check("option", value)
    assert returned == result
    assert type(returned) is type(result)


REFUSED: list[tuple[Callable[..., Any], Any, str]] = [
    (checks.flag, 1, "option must be True or False, not 1: write option=True"),
    (checks.flag, None, "option must be True or False, not None"),
    (checks.count, 0, "option must be a whole number of at least 1, not 0"),
    (checks.count, True, "option must be a whole number"),
    (checks.count, 1.0, "option must be a whole number"),
    (checks.seconds, 0, "option must be a number of seconds above 0, not 0"),
    (checks.seconds, True, "option must be a number of seconds"),
    (checks.seconds, "5", "option must be a number of seconds"),
    (checks.seconds, math.nan, "option must be a number of seconds"),
    (checks.seconds, math.inf, "option must be a number of seconds"),
    (checks.seconds, 10**400, "option must be a number of seconds"),
    (checks.seconds, timedelta(-1), "option must be a number of seconds above 0"),
    (partial(checks.seconds, least=1), 0.5, "a number of seconds, 1 or more, not 0.5"),
    (checks.function, "plain", "option must be a plain function, not str"),
    (checks.function, awaited, r"write `def option\(event\)`"),
    (checks.function, yielding, "option must be a plain function"),
    (checks.function, Awaited(), "option must be a plain function"),
    (checks.function, partial(awaited), "option must be a plain function"),
]


@pytest.mark.parametrize(("check", "value", "text"), REFUSED)
def test_what_cannot_be_used_is_refused(check: Any, value: Any, text: str) -> None:
    """A wrong value raises, and the text names the option and what to write."""
    with pytest.raises(ConfigurationError, match=text):
        check("option", value)


def test_a_choice() -> None:
    """One of several words, or None where that is one of them."""
    assert checks.choice("rotate", "daily", "daily", None) == "daily"
    assert checks.choice("rotate", None, "daily", None) is None
    with pytest.raises(ConfigurationError, match=r'rotate must be "daily" or None, not \'weekly\''):
        checks.choice("rotate", "weekly", "daily", None)


@pytest.mark.parametrize("value", ["shop", b"shop", 7, None, dict], ids=repr)
def test_a_list(value: Any) -> None:
    """One text is not a list of texts."""
    assert checks.listed("modules", ["shop"], "names", '["shop"]') == ("shop",)
    with pytest.raises(ConfigurationError, match=r'a list of names, not \w+: write modules=\["sho'):
        checks.listed("modules", value, "names", '["shop"]')


@pytest.mark.parametrize("value", [["id"], {"id": 1}, {"id": ""}, None], ids=repr)
def test_a_map_of_names(value: Any) -> None:
    """Both sides of a map are names."""
    assert checks.renames("fields", {"id": "uid"}, "names", "{}") == {"id": "uid"}
    with pytest.raises(ConfigurationError, match="fields must map fields of the user to names"):
        checks.renames("fields", value, "names", "{}")


def one(request: Any) -> Any:
    """Take the request."""


def one_of_many(request: Any, depth: int = 1, *, deep: bool = False) -> Any:
    """Take the request, and more if it is given."""


def two(request: Any, response: Any) -> Any:
    """Take more than there is."""


def named(request: Any, *, database: Any) -> Any:
    """Take what nobody gives."""


class Finder:
    """Finds users."""

    def __call__(self, request: Any) -> Any:
        """Take the request."""

    def find(self, request: Any) -> Any:
        """Take the request."""

    @staticmethod
    def find_two(request: Any, response: Any) -> Any:
        """Take more than there is."""


def outer(*args: Any) -> Any:
    """Give another function what it needs."""


outer.__wrapped__ = two  # type: ignore[attr-defined]

ONE = {
    "function": one,
    "defaults": one_of_many,
    "any": lambda *args, **options: (args, options),
    "object": Finder(),
    "method": Finder().find,
    "partial": partial(two, response=None),
    "partial of two": partial(two, None),
    "class": Awaited.__class__,
    "of C": len,
    "of C without signature": dict.get,
    "injected": outer,
}
NOT_ONE = {
    "none": lambda: None,
    "two": two,
    "a name more": named,
    "unbound": Finder.find,
    "static": Finder.find_two,
    "partial": partial(one, None),
}


@pytest.mark.parametrize("function", ONE.values(), ids=ONE)
def test_what_takes_one_argument(function: Any) -> None:
    """Defaults, `*args`, partials and wrappers are seen, and what cannot be told is let pass."""
    assert checks.takes_one(function) or function is dict.get


@pytest.mark.parametrize("function", NOT_ONE.values(), ids=NOT_ONE)
def test_what_takes_another_number(function: Any) -> None:
    """Nobody would give the other arguments."""
    assert not checks.takes_one(function)


@pytest.mark.parametrize("value", [1, 1.5, -3, 10**100], ids=repr)
def test_numbers(value: Any) -> None:
    """Integers and floats are numbers."""
    assert checks.is_number(value)


@pytest.mark.parametrize("value", [True, math.nan, -math.inf, 10**400, "1", None], ids=repr)
def test_no_numbers(value: Any) -> None:
    """True is none, nor is what no float can hold."""
    assert not checks.is_number(value)
