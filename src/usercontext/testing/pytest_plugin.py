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
    """Take every report in the reporting client's place, and give back the app's own `init()`.

    The options of an `init()` that the app has made before stay, such as its scrub rules; nothing
    goes to its server or its clients meanwhile. The recorder's `.events` hold the final payloads,
    and its `.users` what was pushed. What fails, such as a resolver, is logged with its text.
    """
    from usercontext.testing.recording import RecordingClient, recording

    recorder = RecordingClient()
    with recording(recorder):
        yield recorder
