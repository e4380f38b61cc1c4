"""Keeps processes apart that open files in one directory and one that renames some of them.

A lock of the directory itself (`flock`): it needs no file of its own, and SQLite uses no such lock.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["directory_lock"]

# Renaming takes less than a millisecond; whoever holds the lock for longer does not hold it for us.
_PATIENCE = 1.0
_RETRY_SECONDS = 0.005


@contextmanager
def directory_lock(directory: Path, *, alone: bool) -> Iterator[None]:
    """Hold a directory's lock in a block, as well as it can be had: a second is waited, no longer.

    Args:
        directory: the directory.
        alone: whether nobody else may hold it; else all those may that do not want it alone.
    """
    if sys.platform == "win32":
        yield  # There nobody renames a file that anybody has open.
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # A directory may be written, but not read; or there are no descriptors left.
        yield
        return
    try:
        _lock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        # Said, not left to the closing: a child forked meanwhile has the descriptor, too.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> None:
    until = monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > until:
                return
            sleep(_RETRY_SECONDS)
        except OSError:
            return  # Some file systems have no such locks.
        else:
            return
