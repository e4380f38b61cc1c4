"""Names for the users of the tests, and what is wrong when another is seen than was expected.

Each request's users are named anew, so that one who turns up elsewhere is always a leak.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["WrongUserError", "assert_seen", "belong", "fresh", "known"]

_numbers = itertools.count()
#: Whose request a name belongs to; these belong to none, and are set by `apps/scenes.py`.
_requests: dict[str, str] = dict.fromkeys(("import-time", "lifespan", "reaper"), "no request")


class WrongUserError(AssertionError):
    """Another user was seen than was expected.

    Attributes:
        kind: `leak` (a user who has no business there), `stale` (a former one of the same
            request), `lost` (nobody, where there is a user) or `wrong` (anything else).
    """

    def __init__(self, kind: str, seen: object, expected: object) -> None:
        super().__init__(f"{kind}: expected {expected!r}, saw {seen!r}")
        self.kind = kind


def fresh(prefix: str = "user") -> str:
    """Return a name that no other request has."""
    return known(f"{prefix}-{next(_numbers)}")


def known(name: str) -> str:
    """Note that this is a user, of a request of its own; return the name."""
    _requests[name] = name
    return name


def belong(request: str, names: Iterable[str]) -> None:
    """Note that these are the users of one request, one after the other or below it."""
    _requests.update((name, request) for name in names if name in _requests)


def assert_seen(seen: object, expected: object) -> None:
    """Fail, and say in which way, if what was seen is not what was expected."""
    if seen != expected:
        raise WrongUserError(_worst(_kinds(seen, expected)), seen, expected)


def _worst(kinds: Iterable[str]) -> str:
    found = set(kinds)
    return next((kind for kind in ("leak", "stale", "lost") if kind in found), "wrong")


def _kinds(seen: Any, expected: Any) -> Iterator[str]:
    if isinstance(seen, dict) and isinstance(expected, dict) and seen.keys() == expected.keys():
        for key, value in expected.items():
            yield from _kinds(seen[key], value)
    elif isinstance(seen, list) and isinstance(expected, list) and len(seen) == len(expected):
        for one, other in zip(seen, expected, strict=True):
            yield from _kinds(one, other)
    elif seen != expected:
        yield _kind(set(_names(seen)), set(_names(expected)))


def _kind(seen: set[str], expected: set[str]) -> str:
    strangers = seen - expected
    if not strangers:
        return "lost" if expected - seen else "wrong"
    requests = {_requests[name] for name in expected}
    return "stale" if all(_requests[name] in requests for name in strangers) else "leak"


def _names(value: Any) -> Iterator[str]:
    """Find the users in a response, a report or whatever else was seen."""
    if isinstance(value, str) and value in _requests:
        yield value
    elif isinstance(value, dict):
        yield from _names(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _names(one)
