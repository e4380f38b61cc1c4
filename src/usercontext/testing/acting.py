"""Acting as somebody: in tests, whose requests need a user and no login."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from usercontext.core.record import leave
from usercontext.core.settings import act
from usercontext.exceptions import InvalidUserError
from usercontext.user import User

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.core.record import RequestRecord

__all__ = ["acting_as"]


class _Acting:
    """One block: the user that its requests name, and the block that it stands in."""

    __slots__ = ("outer", "user")

    def __init__(self, user: User | None, outer: _Acting | None) -> None:
        self.user = user
        self.outer = outer

    def is_inside(self, other: _Acting | None) -> bool:
        """Return whether this is the other block, or stands in it."""
        block: _Acting | None = self
        while block is not other and block is not None:
            block = block.outer
        return block is other


_here: ContextVar[_Acting | None] = ContextVar("usercontext.acting", default=None)
_open: Final[list[_Acting]] = []


@contextmanager
def acting_as(user: object) -> Iterator[None]:
    """Have every request that is served inside the block name this user.

    `with acting_as({"id": 1}): client.get("/orders")`, with any framework's test client, or a
    server that runs in this process. No resolver is asked; what the app says with `set_user()`
    still counts. Blocks may be nested, and stand in tasks beside each other. It decorates a test
    function, too.

    Args:
        user: anything that `User.of` takes; None: nobody.

    Raises:
        InvalidUserError: it is not a user.

    .. versionadded:: 0.1.0
    """
    block = _Acting(_checked(user), _here.get())
    token = _here.set(block)
    _open.append(block)
    act(_name)
    try:
        yield
    finally:
        _open.remove(block)
        leave(token, _here.reset)
        act(_name if _open else None)


def _checked(user: object) -> User | None:
    found = User.of(user)
    if user is not None and (found is None or found.identity is None):
        raise InvalidUserError(
            f"acting_as() got a value of type {type(user).__name__}, which names nobody: give a "
            "User, a mapping, the framework's user object, or None"
        )
    return found


def _name(record: RequestRecord) -> None:
    """Name the user of a request that begins."""
    here = _here.get()
    # A server that was started in an outer block, or in none, serves the innermost one there is.
    inside = [block for block in _open if block.is_inside(here)] or _open
    if inside:
        record.claim(inside[-1].user)
