"""The tests' own judgement: whether a wrong user is a leak, or lost, or stale."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers.users import WrongUserError, assert_seen, belong, fresh

FIRST, LATER, OTHER = fresh(), fresh("late"), fresh()
belong("request", (FIRST, LATER))


@pytest.mark.parametrize(
    ("seen", "expected", "kind"),
    [
        pytest.param({"user": OTHER}, {"user": FIRST}, "leak", id="another's user"),
        pytest.param({"user": FIRST}, {"user": None}, "leak", id="a user instead of nobody"),
        pytest.param("import-time", None, "leak", id="the user of no request"),
        pytest.param(["nobody", FIRST], ["nobody"], "leak", id="a user seen besides"),
        pytest.param([None, OTHER], [FIRST, FIRST], "leak", id="the worst counts"),
        pytest.param({"user": None}, {"user": FIRST}, "lost", id="nobody"),
        pytest.param("None", FIRST, "lost", id="nobody in a header"),
        pytest.param([FIRST, None], [FIRST, FIRST], "lost", id="nobody, once"),
        pytest.param([], [FIRST], "lost", id="no report"),
        pytest.param({"user": FIRST}, {"user": LATER}, "stale", id="the user before"),
        pytest.param([FIRST, FIRST], [FIRST], "wrong", id="reported twice"),
        pytest.param((500, FIRST), (409, FIRST), "wrong", id="another status"),
    ],
)
def test_kinds_of_wrong_users(seen: Any, expected: Any, kind: str) -> None:
    """What is seen in the place of a user tells a leak from a loss."""
    with pytest.raises(WrongUserError, match=f"^{kind}: ") as caught:
        assert_seen(seen, expected)
    assert caught.value.kind == kind


def test_the_right_user() -> None:
    """What was expected passes."""
    assert_seen({"user": FIRST, "seen": [None, LATER]}, {"user": FIRST, "seen": [None, LATER]})
