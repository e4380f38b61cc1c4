"""Holds a fork back while a connection is being made.

Resolving a name and setting up TLS take locks inside C libraries. A child that is forked at such a
moment finds them taken by a thread that it does not have, and its own would wait for them for ever.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Connecting", "ForkGuard"]

# A connection to a server that does not answer is made for longer, and holds no lock meanwhile.
_FORK_SECONDS = 0.5


class ForkGuard:
    """Keeps forks and the making of connections apart, for the threads of one transport."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forking = 0

    @contextmanager
    def request(self) -> Iterator[Connecting]:
        """Guard one request in a block; the guard is open whenever the block ends."""
        connecting = Connecting(self._lock)
        try:
            yield connecting
        finally:
            connecting.end()

    def before_fork(self) -> None:
        """Wait for the connection under way, though not for long, and let nobody begin one."""
        if self._lock.acquire(timeout=_FORK_SECONDS):
            self._forking = threading.get_ident()

    def after_fork_in_parent(self) -> None:
        """Let the other threads connect again."""
        if self._forking == threading.get_ident():
            self._forking = 0
            self._lock.release()


class Connecting:
    """Keeps one request's connecting apart from forks; its `trace`, as httpcore calls it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._is_held = False

    def __call__(self, step: str, _info: object) -> None:
        """Take note of a step, named as in `connection.connect_tcp.started`."""
        if step.endswith(("connect_tcp.started", "start_tls.started")):
            self.begin()
        elif step.endswith("send_request_headers.started"):
            self.end()

    def begin(self) -> None:
        """Hold back forks, unless they are already."""
        if not self._is_held:
            self._lock.acquire()
            self._is_held = True

    def end(self) -> None:
        """Let forks go on, if they were held back."""
        if self._is_held:
            self._is_held = False
            self._lock.release()
