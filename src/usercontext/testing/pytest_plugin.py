"""Gives pytest the `usercontext_recorder` fixture, through an entry point of the package.

Every pytest run of an environment with usercontext loads this file, so it imports nothing of
usercontext until a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient

__all__ = ["usercontext_recorder"]


@pytest.fixture
def usercontext_recorder() -> Iterator[RecordingClient]:
    """Take every report in the reporting client's place; undo `init()` when the test ends.

    The recorder's `.events` hold the final payloads, and its `.users` what was pushed.
    """
    from usercontext import init
    from usercontext.testing import RecordingClient, reset

    recorder = RecordingClient()
    init(client=recorder, clients=[recorder])
    yield recorder
    reset()
