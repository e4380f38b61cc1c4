"""What tests of the built-in client share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import SentryServer, serving
from usercontext.sentry import SentryClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server() -> Iterator[SentryServer]:
    """A server that takes envelopes."""
    pytest.importorskip("httpx")
    with serving() as server:
        yield server


@pytest.fixture
def make_client() -> Iterator[Callable[..., SentryClient]]:
    """Make clients that are closed when the test ends."""
    clients: list[SentryClient] = []

    def make(*args: Any, **options: Any) -> SentryClient:
        if not str(args[0]).startswith("sqlite:"):
            pytest.importorskip("httpx")
        clients.append(SentryClient(*args, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close(timeout=0.1)
