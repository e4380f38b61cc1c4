"""What a client keeps for each request, wherever in it the client is called."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

from usercontext.core.record import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.record import RequestRecord

__all__ = ["PerRequest", "RequestSpans", "RequestTransaction"]

T = TypeVar("T")


class PerRequest(Generic[T]):
    """Keeps one value for each request, and lets it go with the request's record.

    A ContextVar would not do: a function that `bind()` carries into a plain thread has none of
    them, and an `isolation_scope` inside a request would find the request's. Nor would a
    dictionary of records that holds them weakly: a value that refers back to its record, as hooks
    of ours do, would keep both for good.
    """

    def keep(self, value: T) -> None:
        """Keep a value for the current request."""
        record = current()
        if record is not None:
            self.keep_for(record.root, value)

    def keep_for(self, root: RequestRecord, value: T) -> None:
        """Keep a value for a request."""
        state = root.make_state()
        if state.kept is None:
            state.kept = {}
        state.kept[self] = value

    def get(self) -> T | None:
        """Return the value of the current request; None outside, or where none was kept."""
        record = current()
        return None if record is None else self.of(record.root)

    def of(self, root: RequestRecord) -> T | None:
        """Return the value of a request; None where none was kept."""
        state = root.state
        if state is None or state.kept is None:
            return None
        value: T | None = state.kept.get(self)
        return value


class RequestTransaction(Generic[T]):
    """Finds the transaction, or whatever a library has open, of the current request.

    What is found once is kept while it is open: it may be asked for in a thread or task that the
    library does not know. One that belongs to a request is not given to an `isolation_scope`
    inside of it, whose user is another.

    Args:
        find: returns what is open where it is called, or None.
        is_open: whether what was found before still is; by default always.
    """

    def __init__(
        self, find: Callable[[], T | None], is_open: Callable[[T], bool] = lambda _: True
    ) -> None:
        self._find = find
        self._is_open = is_open
        self._kept: PerRequest[T] = PerRequest()
        self._owners: WeakKeyDictionary[T, ref[RequestRecord]] = WeakKeyDictionary()

    def opened(self) -> tuple[T, ...]:
        """Return the open transaction of the current request; nothing outside of one."""
        record = current()
        if record is None:
            return ()
        root = record.root
        kept = self._kept.of(root)
        if kept is not None and self._is_open(kept):
            return (kept,)
        found = self._find()
        if found is None or not self._may_take(found, root):
            return ()
        self._owners[found] = ref(root)
        self._kept.keep_for(root, found)
        return (found,)

    def _may_take(self, transaction: T, root: RequestRecord) -> bool:
        owner = self._owners.get(transaction)
        return owner is None or owner() in (None, root)


class RequestSpans:
    """Keeps what a library opens during a request, of which several may be open at once.

    It is held for as long as the library holds it, and goes with the request's record.

    Args:
        is_open: whether what was kept still is.
    """

    def __init__(self, is_open: Callable[[Any], bool]) -> None:
        self._is_open = is_open
        self._kept: PerRequest[WeakSet[Any]] = PerRequest()
        self._lock = threading.Lock()

    def keep(self, span: Any) -> None:
        """Keep a span for the current request."""
        record = current()
        if record is None:
            return
        with self._lock:
            spans = self._kept.of(record.root)
            if spans is None:
                spans = WeakSet()
                self._kept.keep_for(record.root, spans)
            spans.add(span)

    def opened(self) -> list[Any]:
        """Return what is open of the current request."""
        record = current()
        spans = None if record is None else self._kept.of(record.root)
        if spans is None:
            return []
        with self._lock:
            kept = list(spans)
        return [span for span in kept if self._is_open(span)]
