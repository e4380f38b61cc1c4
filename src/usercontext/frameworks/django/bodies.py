"""The end of a request: with its response, or once the streamed body is through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.core.lifecycle import complete, fail
from usercontext.core.record import enter, leave
from usercontext.wsgi import ResponseBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from usercontext.core.clients import ClientScopes
    from usercontext.core.record import RequestRecord

__all__ = ["end_with"]


def end_with(response: Any, record: RequestRecord | None, stack: ClientScopes | None) -> None:
    """End a request, and the scopes of its clients, with its response or the streamed body.

    Without a record a middleware further out ends the request, and its body runs inside of that.
    """
    runs_code = response.streaming and getattr(response, "file_to_stream", None) is None
    if not runs_code:
        # Wrapped, a file would lose the server's `wsgi.file_wrapper`.
        if stack is not None:
            stack.close()
        if record is not None:
            record.close()
    elif record is None:
        if stack is not None:
            response._resource_closers.append(stack.close)
    elif response.is_async:
        response.streaming_content = _AsyncBody(response.streaming_content, record, stack)
    else:
        response.streaming_content = ResponseBody(response.streaming_content, record, stack=stack)


class _AsyncBody:
    """A body that runs, chunk by chunk, inside its request; Django closes it with the response."""

    def __init__(
        self, body: AsyncIterator[bytes], record: RequestRecord, stack: ClientScopes | None
    ) -> None:
        self._body = body
        self._record = record
        self._stack = stack

    def __aiter__(self) -> _AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        record = self._record
        token = enter(record)
        try:
            return await anext(self._body)
        except StopAsyncIteration:
            await complete(record)
            self.close()
            raise
        except Exception as error:
            await fail(record, error)
            self.close()
            raise
        finally:
            # A token held across a yield would leak into whoever iterates next.
            leave(token)

    def close(self) -> None:
        if self._stack is not None:
            self._stack.close()
        self._record.close()
