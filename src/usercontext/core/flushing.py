"""Sends what waits before a response ends, where the process may be stopped once it has ended.

So it is with `init(flush="response")`, on platforms that give a process no time between requests,
and in AWS Lambda, wherever an adapter shows its context.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from usercontext.core import context
from usercontext.core.settings import default
from usercontext.diagnostics import harmless
from usercontext.event_loop import run_in_own_thread
from usercontext.source import lambda_context, seconds_left

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import Reporter

__all__ = ["flush", "flush_response", "flush_response_now"]

_SECONDS: Final = 2.0
# How long a server that was too slow is left alone: no other response waits for it.
_REST_SECONDS: Final = 30.0


class _Rest:
    """Which client's server was too slow, and when to wait for it again."""

    client: Reporter | None = None
    until: float = 0.0


_rest: Final = _Rest()


def flush(seconds: float) -> None:
    """Send what waits, for at most some seconds."""
    client = default().client
    if client is not None:
        with harmless("flush", "reports could not be sent before the process is stopped"):
            client.flush(seconds)


async def flush_response(record: RequestRecord) -> None:
    """Send what a request has reported before its response ends; the event loop goes on.

    Reports that still wait for the user are sent with what is known.
    """
    context.complete_pending(record)
    client = _client_to_flush()
    if client is not None:
        with harmless("flush", "reports could not be sent before the response"):
            seconds = _time_for(record.source)
            _note(client, await run_in_own_thread(client.flush, seconds))


def flush_response_now(record: RequestRecord) -> None:
    """Do what `flush_response` does where nothing can be awaited."""
    context.complete_pending(record)
    client = _client_to_flush()
    if client is not None:
        with harmless("flush", "reports could not be sent before the response"):
            _note(client, client.flush(_time_for(record.source)))


def _client_to_flush() -> Reporter | None:
    client = default().client
    if client is None or (client is _rest.client and monotonic() < _rest.until):
        return None
    # Most requests report nothing, and need not wait for a thread to say so.
    stats: Any = getattr(client, "stats", None)
    with harmless("flush", "whether reports wait could not be found out"):
        return None if stats is not None and not stats()["queued"] else client
    return client


def _time_for(source: Mapping[str, Any] | None) -> float:
    found = None if source is None else lambda_context(source)
    return _SECONDS if found is None else seconds_left(found)


def _note(client: Reporter, is_through: object) -> None:
    _rest.client = None if is_through else client
    _rest.until = monotonic() + _REST_SECONDS
