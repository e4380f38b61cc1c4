"""Hooks of ours in functions of libraries: they run before, harm nothing, and change no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.hooks import Chained, call_before, wrap
from usercontext.diagnostics import failures

if TYPE_CHECKING:
    import pytest

LOST = ("beacon report", "a report of beacon went out without its user")


class Beacon:
    """A library with a method of each kind."""

    def report(self, text: str) -> str:
        """Report from an instance."""
        return f"sent {text}"

    @classmethod
    def send(cls, text: str) -> str:
        """Report from the class."""
        return f"{cls.__name__} sent {text}"


def hooked(name: str, ours: Any) -> type[Beacon]:
    """Make a library whose function is preceded by one of ours."""
    library = type("Beacon", (Beacon,), {name: vars(Beacon)[name]})
    call_before(library, name, ours, *LOST)
    return library


def test_ours_is_called_with_the_same_arguments() -> None:
    """A method's own object is among them, and the library's answer is returned."""
    seen: list[Any] = []
    beacon = hooked("report", lambda *args: seen.append(args))()
    assert beacon.report("x") == "sent x"
    assert seen == [(beacon, "x")]


def test_a_method_of_a_class_stays_one() -> None:
    """It is called on the class and on an object of it, as before."""
    seen: list[Any] = []
    library = hooked("send", lambda *args: seen.append(args))
    assert library.send("x") == library().send("x") == "Beacon sent x"
    assert seen == [("x",), ("x",)]


def test_what_fails_in_ours_harms_nothing() -> None:
    """The library does its work, and the failure is counted."""

    def fail(*_: Any) -> None:
        raise ValueError

    assert hooked("report", fail)().report("x") == "sent x"
    assert failures() == {"beacon report": 1}


def test_the_apps_own_hook_answers() -> None:
    """It runs after ours, with all that the library hands it; without one the item passes."""
    seen: list[str] = []
    hook = Chained(seen.append, lambda item, hint: (item, hint, list(seen)))
    assert hook("item", "hint") == ("item", "hint", ["item"])
    assert Chained(seen.append, None)("item", "hint") == "item"


def test_a_wrapped_function() -> None:
    """Ours is called in its place, once, however often it is wrapped."""
    library = type("Beacon", (Beacon,), {"report": Beacon.report})
    for _ in range(2):
        wrap(library, "report", lambda function, *args: f"<{function(*args)}>")
    assert library().report("x") == "<sent x>"


def test_a_function_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """A function that a release to come has not is said, and nothing fails."""
    wrap(Beacon, "record", lambda function, *args: function(*args))
    assert "Beacon has no record() any more" in caplog.text
