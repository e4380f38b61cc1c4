"""What a client keeps for each request, wherever in it the client is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from usercontext.record import current

if TYPE_CHECKING:
    from usercontext.record import RequestRecord

__all__ = ["PerRequest"]

T = TypeVar("T")


class PerRequest(Generic[T]):
    """Keeps one value for each request, and lets it go with the request's record.

    A ContextVar would not do: a function that `bind()` carries into a plain thread has none of
    them, and an `isolation_scope` inside a request would find that of the request.
    """

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[RequestRecord, T] = WeakKeyDictionary()

    def keep(self, value: T) -> None:
        """Keep a value for the current request."""
        record = current()
        if record is not None:
            self._values[record.root] = value

    def get(self) -> T | None:
        """Return the value of the current request; None outside, or where none was kept."""
        record = current()
        return None if record is None else self._values.get(record.root)
