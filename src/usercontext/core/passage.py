"""Which request an exception has passed through, kept beside the exception and not in it.

An exception is the app's: it is pickled for another process, copied, compared and printed as if
nobody had seen it pass. Where its class allows weak references a table of ours knows it; the
exceptions of Python itself, which do not, get a `__dict__` that knows more than it shows.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord

__all__ = ["attach", "is_reported", "mark_reported", "of_error", "was_ever_reported"]

_MAX_MARKS: Final = 16

# Past what an exception's own class may have made of it: a frozen one must stay reportable.
_VARS: Any = BaseException.__dict__["__dict__"]


class _Passage:
    """What is kept of one exception.

    Attributes:
        has_passed: whether it has left a request, or a block inside one.
        record: the request's record, for handlers further out; None after two requests raised it.
        reported: weakly, the records of the requests that have reported it.
    """

    __slots__ = ("has_passed", "record", "reported")

    def __init__(self) -> None:
        self.has_passed: bool = False
        self.record: RequestRecord | None = None
        self.reported: tuple[weakref.ref[Any], ...] = ()


class _Vars(dict[str, Any]):
    """The attributes of an exception; equal to any other's, and pickled and copied like them."""

    __slots__ = ("passage",)

    passage: _Passage

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _Outside:
    """In the place of a record, where an exception is reported outside of every request."""


_outside: Final = _Outside()

# By id, as an exception may compare in its own way, or have no hash.
_by_id: Final[dict[int, tuple[weakref.ref[BaseException], _Passage]]] = {}


def _find(error: BaseException) -> _Passage | None:
    known = _by_id.get(id(error))
    if known is not None and known[0]() is error:
        return known[1]
    own = _VARS.__get__(error)
    return own.passage if type(own) is _Vars else None


def _make(error: BaseException) -> _Passage:
    """Return what is kept of an exception, from now on if not before."""
    passage = _find(error)
    if passage is not None:
        return passage
    passage, key = _Passage(), id(error)

    def forget(reference: weakref.ref[BaseException]) -> None:
        known = _by_id.get(key)
        if known is not None and known[0] is reference:
            del _by_id[key]

    try:
        _by_id[key] = weakref.ref(error, forget), passage
    except TypeError:
        own = _Vars(_VARS.__get__(error))
        own.passage = passage
        _VARS.__set__(error, own)
    return passage


def attach(error: BaseException, record: RequestRecord) -> None:
    """Leave the record on an exception that passes, for handlers further out.

    An object raised by two requests with different records names nobody (None is left on it);
    one that left a `use_user` block keeps that block's record.
    """
    passage = _make(error)
    if not passage.has_passed:
        passage.has_passed, passage.record = True, record
    elif passage.record is not None and passage.record.root is not record.root:
        passage.record = None


def of_error(error: object) -> tuple[bool, RequestRecord | None]:
    """Return whether the exception passed through us, and the record it carries."""
    # What is not an exception may come from an app's own hook, and passed through nothing.
    passage = _find(error) if isinstance(error, BaseException) else None
    return (False, None) if passage is None else (passage.has_passed, passage.record)


def mark_reported(error: BaseException, record: RequestRecord | None) -> None:
    """Note that a request, or the process outside of every request, has reported an exception.

    Weakly: a list on the record would tie request, exception and frames into a cycle.
    """
    passage = _make(error)
    living = [mark for mark in passage.reported if mark() is not None]
    passage.reported = (*living[1 - _MAX_MARKS :], weakref.ref(record or _outside))


def is_reported(error: BaseException, record: RequestRecord, depth: int = 16) -> bool:
    """Return whether a request has reported an exception, or each one of a group.

    Frameworks that serve a request in a task group raise what was reported inside of it again
    as a group.
    """
    passage = _find(error)
    if passage is not None and any(mark() is record for mark in passage.reported):
        return True
    if not isinstance(error, BaseExceptionGroup) or depth == 0:
        return False
    return all(is_reported(member, record, depth - 1) for member in error.exceptions)


def was_ever_reported(error: BaseException) -> bool:
    """Return whether anybody has reported an exception: a request that is over, included."""
    passage = _find(error)
    if passage is not None and passage.reported:
        return True
    return isinstance(error, BaseExceptionGroup) and all(map(was_ever_reported, error.exceptions))
