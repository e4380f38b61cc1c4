"""Tells transports what happens to their process: it forks, it ends, it has sent a response."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from usercontext.sentry.delivery import uwsgi
from usercontext.sentry.delivery.own_work import own_work

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watcher", "forget", "watch"]


class Watcher(Protocol):
    """What is told of its process."""

    def before_fork(self) -> None:
        """Put away what must not be open when this process forks."""

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""

    def after_fork_in_child(self) -> None:
        """Begin empty; what the parent has, stays the parent's."""

    def at_exit(self) -> None:
        """Send what can be sent, as the process ends."""

    def after_request(self) -> None:
        """Send what waits, as no thread does it."""


_watchers: WeakSet[Watcher] = WeakSet()


def watch(watcher: Watcher) -> None:
    """Tell a watcher from now on, until it is forgotten."""
    _watchers.add(watcher)
    atexit.register(watcher.at_exit)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        # Such a process ends by `os._exit`, without atexit.
        _call_in_multiprocessing(_watchers)
    if uwsgi.runs_without_threads():
        uwsgi.call_after_each_request(_tell(lambda watcher: watcher.after_request()))


def forget(watcher: Watcher) -> None:
    """Tell a watcher no more when the process ends."""
    atexit.unregister(watcher.at_exit)


def _tell(what: Callable[[Watcher], None]) -> Callable[[], None]:
    def tell() -> None:
        for watcher in list(_watchers):
            what(watcher)

    return tell


def _call_in_multiprocessing(_: object) -> None:
    from multiprocessing.util import Finalize

    Finalize(None, _tell(lambda watcher: watcher.at_exit()), exitpriority=0)


def _before_fork() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Its children forget all finalizers first, and then call what is registered so.
        util.register_after_fork(_watchers, _call_in_multiprocessing)
    _tell(lambda watcher: watcher.before_fork())()


def _after_fork_in_child() -> None:
    own_work.depth = 0
    _tell(lambda watcher: watcher.after_fork_in_child())()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_tell(lambda watcher: watcher.after_fork_in_parent()),
        after_in_child=_after_fork_in_child,
    )
