"""Every test of a client starts and ends with nothing configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usercontext import testing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_configured() -> Iterator[None]:
    testing.reset()
    yield
    testing.reset()
