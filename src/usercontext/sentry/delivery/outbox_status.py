"""What an outbox holds, and how to empty it: for who looks at the file from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from time import time
from typing import TYPE_CHECKING, NamedTuple

from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.database import connect
from usercontext.sentry.delivery.owners import is_dead
from usercontext.sentry.delivery.report_file import existing_file

if TYPE_CHECKING:
    import os

__all__ = ["OutboxStatus", "clear_outbox", "outbox_status"]

_WAITING = "FROM reports WHERE target IS NOT NULL"


class OutboxStatus(NamedTuple):
    """What an outbox holds."""

    #: How many reports, by the server's DSN.
    waiting: dict[str, int]
    #: How many of them a living process will send.
    claimed: int
    #: How large they are in all, as JSON.
    size: int
    #: When the oldest happened, as seconds since 1970; None without any.
    oldest: float | None


def outbox_status(path: str | os.PathLike[str]) -> OutboxStatus:
    """Return what an outbox holds.

    Raises:
        ConfigurationError: there is no such file, or it is not an outbox.
    """
    with closing(_existing_outbox(path, "ro")) as connection:
        connection.execute("BEGIN")
        waiting = dict(
            connection.execute(f"SELECT target, count(*) {_WAITING} GROUP BY target").fetchall()
        )
        size, oldest = connection.execute(
            f"SELECT coalesce(sum(length(payload)), 0), min(timestamp) {_WAITING}"
        ).fetchone()
        owners = connection.execute(
            "SELECT owner, until FROM owners WHERE owner IN (SELECT owner FROM reports)"
        ).fetchall()
        living = [owner for owner, until in owners if until >= time() and not is_dead(owner)]
        query = f"SELECT count(*) {_WAITING} AND owner = ?"
        claimed = sum(connection.execute(query, (owner,)).fetchone()[0] for owner in living)
    return OutboxStatus(waiting, claimed, size, oldest)


def clear_outbox(path: str | os.PathLike[str]) -> int:
    """Delete every report that waits, unsent; return how many.

    Raises:
        ConfigurationError: there is no such file, or it is not an outbox.
    """
    with closing(_existing_outbox(path, "rw")) as connection:
        return connection.execute(f"DELETE {_WAITING}").rowcount


def _existing_outbox(path: str | os.PathLike[str], mode: str) -> sqlite3.Connection:
    file = existing_file(path)
    connection = connect(file, mode)
    try:
        connection.execute("SELECT target, owner FROM reports, owners USING (owner) LIMIT 0")
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{str(file)!r} is not an outbox: {error}") from error
    return connection
