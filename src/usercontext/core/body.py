"""The body of a WSGI response, which runs after the app has returned: inside its request, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usercontext.core.lifecycle import (
    complete_now,
    end_now,
    end_record,
    fail_or_exit_now,
    flush_response_now,
)
from usercontext.core.record import enter, leave

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usercontext.core.clients import ClientScopes
    from usercontext.core.record import RequestRecord

__all__ = ["ResponseBody", "kept_open"]

_MAX_KINDS = 256  # an app has few classes of bodies, but may make new ones


class ResponseBody:
    """A response body that runs, chunk by chunk and in its `close()`, inside its request.

    A generator's body runs after the app has returned, in the thread of the server: what is set
    there would stay for the thread's next request. `close()` may come from another thread.

    Args:
        body: the app's.
        record: the request's.
        scopes: what clients have open for the request, to be closed with it.
        owned: whether the request ends with the body.
    """

    __slots__ = ("_body", "_iterator", "_owned", "_record", "_scopes")

    def __init__(
        self,
        body: Iterable[bytes],
        record: RequestRecord,
        scopes: ClientScopes | None = None,
        owned: bool = True,
    ) -> None:
        self._body = body
        self._record = record
        self._scopes = scopes
        self._owned = owned
        self._iterator: Iterator[bytes] | None = None

    # What `with inside(record)` does, written out: a body that is not a list passes here four times
    # in every request, and each call costs as much as the rest.

    def __iter__(self) -> Iterator[bytes]:
        if self._iterator is None:
            token = enter(self._record)
            try:
                self._iterator = iter(self._body)
            except Exception as error:
                self._fail(error)
                raise
            finally:
                leave(token)
        return self

    def __next__(self) -> bytes:
        if self._iterator is None:
            iter(self)
        token = enter(self._record)
        try:
            return next(self._iterator)  # type: ignore[arg-type]
        except StopIteration:
            if self._owned and self._record.settings.flushes:
                complete_now(self._record)
                flush_response_now(self._record)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            leave(token)

    def close(self) -> None:
        """Close the body, and end the request."""
        record = self._record
        token = enter(record)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except Exception as error:
            self._fail(error)
            raise
        finally:
            leave(token)
            if self._owned:
                self._end()

    def _end(self) -> None:
        if self._scopes is not None or self._record.settings.flushes:
            end_now(self._record, self._scopes)
        elif self._record.ended is None:
            end_record(self._record)

    def _fail(self, error: BaseException) -> None:
        if self._owned:
            fail_or_exit_now(self._record, error)


class _SizedBody(ResponseBody):
    """A body that tells its length: servers write Content-Length where it is one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


# What is made of a body, by its class; None for one that is a file, which stays as it is.
_kinds: dict[type[object], type[ResponseBody] | None] = {list: None, tuple: None}


def kept_open(body: object, wrapper: object) -> type[ResponseBody] | None:
    """Return what keeps the request open while a body runs; None where none of it is code.

    Wrapped, a file would lose the server's `sendfile`.

    Args:
        body: the app's.
        wrapper: the server's `wsgi.file_wrapper`.
    """
    kind = type(body)
    if wrapper is not None and isinstance(wrapper, type) and isinstance(body, wrapper):
        return None
    try:
        return _kinds[kind]
    except KeyError:
        return _meet(kind)


def _meet(kind: type[object]) -> type[ResponseBody] | None:
    found: type[ResponseBody] | None = _SizedBody if hasattr(kind, "__len__") else ResponseBody
    if getattr(kind, "fileno", None) is not None:
        found = None
    if len(_kinds) >= _MAX_KINDS:
        _kinds.clear()
    _kinds[kind] = found
    return found
