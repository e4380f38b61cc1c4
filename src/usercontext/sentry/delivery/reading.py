"""Reads the reports of an SQLite file, as they are and as they come."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from usercontext.sentry.delivery.report_file import connect_to_read, existing_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["follow_reports", "read_reports"]


def read_reports(
    path: str | os.PathLike[str], *, until: int | None = None
) -> Iterator[dict[str, Any]]:
    """Return an iterator of the events kept in a file, oldest first.

    Args:
        path: the file, or the `sqlite:///` DSN that names it.
        until: a mark of `follow_reports`: nothing that was written after it.

    Raises:
        ConfigurationError: there is no such file, or it does not hold reports.
    """
    file = existing_file(path)
    with closing(connect_to_read(file)):
        pass  # Now rather than when the first report is asked for.
    return _events(file, sys.maxsize if until is None else until)


def follow_reports(
    path: str | os.PathLike[str], after: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Return the events written after a mark, and the mark to go on from.

    Without a mark, no events: only what is written from now on is asked for.
    """
    with closing(connect_to_read(existing_file(path))) as connection:
        (newest,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM reports").fetchone()
        if after is None:
            return [], newest
        rows = connection.execute(
            "SELECT rowid, payload FROM reports WHERE rowid > ? ORDER BY rowid", (after,)
        ).fetchall()
    # Where the newest were deleted, their numbers are given once more.
    mark = rows[-1][0] if rows else min(after, newest)
    return [json.loads(payload) for _, payload in rows], mark


def _events(file: Path, until: int) -> Iterator[dict[str, Any]]:
    """Yield the events in short reads: an open one would keep SQLite from tidying up."""
    with closing(connect_to_read(file)) as connection:
        rows = connection.execute(
            "SELECT rowid FROM reports WHERE rowid <= ? ORDER BY timestamp, rowid", (until,)
        ).fetchall()
        for row in rows:
            found = connection.execute("SELECT payload FROM reports WHERE rowid = ?", row)
            for (payload,) in found.fetchall():
                yield json.loads(payload)
