"""The end of a request: with its response, or once the streamed body is through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.core.body import ResponseBody
from usercontext.core.lifecycle import complete, end_now, end_scopes, fail, inside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from usercontext.core.clients import ClientScopes
    from usercontext.core.record import RequestRecord

__all__ = ["end_part", "end_with"]


def end_part(record: RequestRecord, scopes: ClientScopes | None, *, is_ours: bool) -> None:
    """End a request that is ours, or the scopes of our clients inside one that is not."""
    if is_ours:
        end_now(record, scopes)
    else:
        end_scopes(record, scopes)


def end_with(
    response: Any, record: RequestRecord, scopes: ClientScopes | None, *, is_ours: bool
) -> None:
    """End a request, and the scopes of its clients, with its response or the streamed body.

    The record of a middleware further out is ended there, and the body runs inside of that.
    """
    runs_code = response.streaming and getattr(response, "file_to_stream", None) is None
    if not runs_code:
        # Wrapped, a file would lose the server's `wsgi.file_wrapper`.
        end_part(record, scopes, is_ours=is_ours)
    elif not is_ours:
        response._resource_closers.append(lambda: end_scopes(record, scopes))
    elif response.is_async:
        response.streaming_content = _AsyncBody(response.streaming_content, record, scopes)
    else:
        response.streaming_content = ResponseBody(response.streaming_content, record, scopes)


class _AsyncBody:
    """A body that runs, chunk by chunk, inside its request; Django closes it with the response."""

    def __init__(
        self, body: AsyncIterator[bytes], record: RequestRecord, scopes: ClientScopes | None
    ) -> None:
        self._body = body
        self._record = record
        self._scopes = scopes

    def __aiter__(self) -> _AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        # Entered for each chunk: across a yield the record would leak into whoever iterates next.
        with inside(self._record):
            try:
                return await anext(self._body)
            except StopAsyncIteration:
                await complete(self._record)
                self.close()
                raise
            except Exception as error:
                await fail(self._record, error)
                self.close()
                raise

    def close(self) -> None:
        end_now(self._record, self._scopes)
