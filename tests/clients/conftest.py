"""Every test of a client starts and ends with nothing configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from usercontext import testing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_configured() -> Iterator[None]:
    testing.reset()
    yield
    testing.reset()


@pytest.fixture
def sentry() -> Iterator[Any]:
    """Initialise the real sentry-sdk with a transport that keeps, and undo that afterwards."""
    from tests.clients.sentry_sdk_kept import initialised

    with initialised() as initialise:
        yield initialise
