"""What runs with a record of its own: a background job, a call; a block from start to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from usercontext.core.context import became_known
from usercontext.core.lifecycle import (
    begin,
    complete,
    complete_now,
    end_now,
    fail,
    fail_now,
    inside,
    resolve,
    started,
    started_now,
)
from usercontext.core.record import UNKNOWN, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from usercontext.core.clients import ClientScopes

__all__ = ["Running"]


class Running:
    """A job or a call, from its start to its end: a `with` or an `async with` block.

    Inside of it its record is the current one; an error that leaves it is reported, and passes.
    Libraries with a hook at each end call `begin`, `fail` and `end` themselves.

    Args:
        record: whose run it is.
        is_error: tells the exceptions that are reported from those by which the library is
            told what to do; by default every `Exception` is reported.
        is_own: whether the record begins and ends with this run.
    """

    __slots__ = ("_current", "_is_error", "_is_own", "_scopes", "record")

    def __init__(
        self,
        record: RequestRecord,
        *,
        is_error: Callable[[BaseException], bool] | None = None,
        is_own: bool = True,
    ) -> None:
        self.record: RequestRecord = record
        self._is_error = is_error
        self._is_own = is_own
        self._scopes: ClientScopes | None = None
        self._current: inside | None = None

    def begin(self) -> None:
        """Make its record the current one, and open a scope of each reporting client."""
        record = self.record
        self._current = inside(record)
        self._current.__enter__()
        if self._is_own and record.settings.clients and record.root is record:
            self._scopes = begin(record)
            if record.user is not UNKNOWN:
                became_known(record)

    def fail(self, error: BaseException) -> None:
        """Report the error that ends this run, once."""
        if self._reports(error):
            fail_now(self.record, error)  # type: ignore[arg-type]

    async def fail_async(self, error: BaseException) -> None:
        """Do what `fail` does, and await an async resolver first."""
        if self._reports(error):
            await fail(self.record, error)  # type: ignore[arg-type]

    def _reports(self, error: BaseException) -> bool:
        return isinstance(error, Exception) if self._is_error is None else self._is_error(error)

    def end(self) -> None:
        """Put back what was current before; the record keeps a known user for detached work."""
        try:
            if self._is_own:
                complete_now(self.record)
                started_now(self.record)
        finally:
            self._close()

    def _close(self) -> None:
        if self._is_own:
            end_now(self.record, self._scopes)
        if self._current is not None:
            self._current.__exit__()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self.fail(error)
        finally:
            self.end()

    async def __aenter__(self) -> Self:
        self.begin()
        if self.record.settings.eager:
            await resolve(self.record)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                await self.fail_async(error)
            if self._is_own and (error is None or isinstance(error, Exception)):
                # A task that is destroyed awaits nothing more.
                await complete(self.record)
                await started(self.record)
        finally:
            self._close()
