"""Testing that reports name the right user: a client that records instead of sending."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usercontext import diagnostics
from usercontext.clients.base import BaseClient
from usercontext.core import clients
from usercontext.core.context import make_default, pull_user
from usercontext.core.settings import Settings, default
from usercontext.core.unhandled import unwatch
from usercontext.initialise import close
from usercontext.privacy.secret_names import forget_secret_names
from usercontext.sentry import SentryClient
from usercontext.testing.conformance import client_conformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from usercontext.types import Event, GetUser
    from usercontext.user import User

__all__ = ["RecordingClient", "client_conformance", "recording", "reset"]


class RecordingClient(BaseClient):
    """Record what reporting clients receive, and what the built-in client would send.

    Give it as a reporting client, `clients=[recorder]`, to see the pushed users; or as
    `init(client=recorder)` to see whole reports. pytest has it as the fixture
    `usercontext_recorder`, which is both.

    Attributes:
        users: what was pushed, in order: a dict, or None for nobody.
        events: the final payloads, after `before_send` and after scrubbing.

    Args:
        recording: say that every request will be sent anyway, so that each one's user is
            resolved and pushed when its response starts.
        options: what `SentryClient` takes, such as `before_send`.
    """

    def __init__(self, *, recording: bool = False, **options: Any) -> None:
        self.users: list[dict[str, Any] | None] = []
        self.events: list[Event] = []
        self.get_user: GetUser | None = None
        self._recording = recording
        self._client = SentryClient(transport=_Recorder(self.events), **options)
        self.exception_text: str | None = self._client.exception_text
        self.admits: Callable[[Mapping[str, Any] | None], bool] | None = self._client.admits

    def clear(self) -> None:
        """Forget what has been recorded."""
        self.users.clear()
        self.events.clear()

    def setup(self, get_user: GetUser, /) -> None:
        """Keep the function that pulls the user of the current request."""
        self.get_user = get_user

    def is_recording(self) -> bool:
        """Return whether every request's user is asked for."""
        return self._recording

    def set_user(self, user: User | None, /) -> None:
        """Record a pushed user."""
        self.users.append(None if user is None else user.to_dict())

    def build_exception(
        self, error: BaseException, *, handled: bool = True, level: str = "error"
    ) -> Event | None:
        """Build the report of an exception as the built-in client does."""
        return self._client.build_exception(error, handled=handled, level=level)

    def build_message(self, message: str, *, level: str = "info") -> Event | None:
        """Build the report of a message as the built-in client does."""
        return self._client.build_message(message, level=level)

    def send(self, event: Event, *, scrub: Callable[[Event], Event] | None = None) -> str | None:
        """Record the final payload of a report."""
        return self._client.send(event, scrub=scrub)

    def flush(self, timeout: float = 2.0) -> bool:
        """Return True: a report is recorded when it is captured."""
        return self._client.flush(timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Return True, and go on recording."""
        return self._client.flush(timeout)


class _Recorder:
    """A transport that keeps what it is given."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def has_room(self) -> bool:
        return True

    def submit(self, event: Event) -> bool:
        self._events.append(event)
        return True

    def discard(self, reason: str) -> None:
        """Keep no count: tests look at what was recorded."""

    def stats(self) -> dict[str, Any]:
        return {"captured": len(self._events), "sent": len(self._events), "queued": 0}

    def flush(self, timeout: float = 2.0) -> bool:  # noqa: ARG002
        return True

    def close(self, timeout: float = 2.0) -> bool:  # noqa: ARG002
        return True


@contextmanager
def recording(recorder: RecordingClient) -> Iterator[None]:
    """Hand a recorder all reports and users for a block, by the options that apply before it.

    Args:
        recorder: takes them. What the app's own `init()` configured is back at the block's end,
            whatever the block has configured. Errors are logged with their texts meanwhile.
    """
    before = default()
    make_default(before.reported_to(recorder, (recorder,)))
    clients.set_up(recorder, pull_user)
    shown_before = diagnostics.show_texts(True)
    try:
        yield
    finally:
        diagnostics.show_texts(shown_before)
        if before.is_blank:
            reset()
        else:
            _give_back(before, recorder)


def _give_back(before: Settings, recorder: RecordingClient) -> None:
    """Put the app's settings back, whose client and hooks were left as they are."""
    if default().client is not before.client:
        close()
    make_default(before)
    clients.forget(recorder)
    diagnostics.forget()


def reset() -> None:
    """Undo `init()`, and forget which clients were set up and what has been warned about."""
    close()
    make_default(Settings())
    unwatch()
    clients.forget()
    diagnostics.forget()
    forget_secret_names()
    diagnostics.show_texts(False)
