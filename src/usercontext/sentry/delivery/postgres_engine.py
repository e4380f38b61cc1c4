"""Reports in a table of PostgreSQL; the only file that knows the package `psycopg`.

Each row is claimed by one process, for the length of a lease; what others are claiming at the same
moment is skipped.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing
from usercontext.sentry.delivery.engine import (
    LEASE_SECONDS,
    EngineBounds,
    EngineError,
    EngineStatus,
    Entry,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usercontext.sentry.delivery.engine import Address, Row

__all__ = ["PostgresEngine"]

_OLDEST_VERSION = 120_000
_CONNECT_SECONDS = 3
_ANSWER_MS = 5000
_PRUNE_EVERY = 50
_STEP = 500
_LOCK = 0x75736572  # "user", for who makes the tables first
_TABLES = """
CREATE TABLE IF NOT EXISTS usercontext_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target text NOT NULL,
    event_id text NOT NULL,
    payload bytea NOT NULL,
    written timestamptz NOT NULL DEFAULT now(),
    owner text,
    until timestamptz,
    UNIQUE (target, event_id)
);
CREATE INDEX IF NOT EXISTS usercontext_outbox_by_target ON usercontext_outbox (target, id);
CREATE TABLE IF NOT EXISTS usercontext_outbox_pauses (
    target text PRIMARY KEY,
    until timestamptz NOT NULL
);
"""
_ARE_THERE = """
SELECT to_regclass('usercontext_outbox'), to_regclass('usercontext_outbox_pauses')
"""
_KEEP = """
INSERT INTO usercontext_outbox (target, event_id, payload)
SELECT %s, event_id, payload FROM unnest(%s::text[], %s::bytea[]) AS rows (event_id, payload)
ON CONFLICT DO NOTHING RETURNING event_id, id
"""
_CLAIM = """
UPDATE usercontext_outbox SET owner = %s, until = now() + %s * interval '1 second'
WHERE id IN (
    SELECT id FROM usercontext_outbox WHERE target = %s AND {}
    ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING id, event_id, payload
"""
_CLAIM_NEW = _CLAIM.format("owner IS NULL")
_CLAIM_EXPIRED = _CLAIM.format("until < now()")
_CLAIM_OF = _CLAIM.format("owner = ANY(%s)")
_SET_UNTIL = """
UPDATE usercontext_outbox SET until = now() + %s * interval '1 second'
WHERE id = ANY(%s) AND owner = %s
"""
_DELETE = """
DELETE FROM usercontext_outbox WHERE id IN (
    SELECT id FROM usercontext_outbox WHERE target = %s {} FOR UPDATE SKIP LOCKED
) RETURNING event_id
"""
_DELETE_OLD = _DELETE.format(
    f"AND written < now() - %s * interval '1 second' ORDER BY id LIMIT {_STEP}"
)
_DELETE_OLDEST = _DELETE.format("ORDER BY id LIMIT %s")
_HELD = """
SELECT count(*), coalesce(sum(octet_length(payload)), 0)::bigint,
    count(*) FILTER (WHERE until >= now()), extract(epoch FROM min(written))::float8
FROM usercontext_outbox WHERE target = %s
"""
_TARGETS = """
SELECT target FROM usercontext_outbox UNION
SELECT target FROM usercontext_outbox_pauses WHERE until > now() ORDER BY 1
"""
_BEYOND = """
SELECT count(*) FROM (
    SELECT sum(octet_length(payload)) OVER (ORDER BY id DESC) AS size
    FROM usercontext_outbox WHERE target = %s
) AS newest WHERE size > %s
"""
_PAUSE = """
INSERT INTO usercontext_outbox_pauses AS pauses VALUES (%s, now() + %s * interval '1 second')
ON CONFLICT (target) DO UPDATE SET until = greatest(pauses.until, excluded.until)
"""
_PAUSED = """
SELECT coalesce(max(extract(epoch FROM until - now())), 0)::float8
FROM usercontext_outbox_pauses WHERE target = %s
"""
_REASONS = {
    "28P01": "the password is wrong",
    "28000": "its role may not connect",
    "3D000": "there is no database of that name",
    "53100": "its disk is full",
    "53300": "it has no connection left",
    "57014": "there was no answer in time",
    "57P01": "it is shutting down",
    "57P02": "it is shutting down",
    "57P03": "it is still starting",
    "25006": "it is a replica, which takes nothing: name the primary",
    "42501": "its role may not do what is needed: grant it CREATE on the schema, or all on the "
    "tables usercontext_outbox and usercontext_outbox_pauses",
}
# What libpq says of a connection that it could not make; it has no codes for that.
_TEXTS = {
    "password": "the password is missing or wrong",
    "refused": "the connection was refused",
    "timeout expired": "there was no answer in time",
    "translate host name": "the name is not known",
    "does not exist": "there is no role or database of that name",
    "SSL": "TLS failed",
    "starting up": "it is still starting",
    "shutting down": "it is shutting down",
    "too many": "it has no connection left",
}


class PostgresEngine:
    """One server's reports in PostgreSQL.

    Args:
        address: where it runs.
        target: the server's DSN, without its secret; "" for what concerns no server.

    Raises:
        ConfigurationError: the URL cannot be used.
        MissingDependencyError: the package is not installed.
    """

    def __init__(self, address: Address, target: str) -> None:
        with importing("psycopg", "postgresql", purpose="an outbox in PostgreSQL"):
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        self._psycopg: Any = psycopg
        try:
            conninfo_to_dict(address.url)
        except psycopg.Error:
            raise ConfigurationError(
                "outbox is a URL of PostgreSQL that libpq cannot read: write "
                'outbox="postgresql://user@host/database"'
            ) from None
        self._address = address
        self._target = target
        self._connection: Any = None
        self._abandoned: list[object] = []
        self._unpruned = _PRUNE_EVERY  # The first report makes us look.
        self._unpruned_bytes = 0

    def __del__(self) -> None:
        # One that is merely dropped warns. Another process's is left alone by psycopg.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()

    # What it is asked for

    def keep(self, rows: Sequence[Row], bounds: EngineBounds) -> tuple[list[str | None], list[str]]:
        """Write reports; return their tokens, None where one was there, and who made room."""
        ids, payloads = [row.event_id for row in rows], [row.payload for row in rows]
        tokens = dict(self._rows(_KEEP, self._target, ids, payloads))
        self._unpruned += len(rows)
        self._unpruned_bytes += sum(map(len, payloads))
        is_due = self._unpruned >= max(1, min(_PRUNE_EVERY, bounds.max_reports // 10))
        gone: list[str] = []
        if is_due or self._unpruned_bytes >= bounds.max_bytes // 10:
            gone = self._prune(bounds)
        found = (tokens.pop(event_id, None) for event_id in ids)
        return [None if token is None else str(token) for token in found], gone

    def claim(self, owner: str, limit: int) -> list[Entry]:
        """Claim the oldest reports that nobody has claimed."""
        return self._claimed(_CLAIM_NEW, owner, LEASE_SECONDS, self._target, limit)

    def adopt(self, owner: str, limit: int, is_dead: Callable[[str], bool]) -> list[Entry]:
        """Claim what owners had claimed whose lease is over, or who are known to be dead."""
        found = self._claimed(_CLAIM_EXPIRED, owner, LEASE_SECONDS, self._target, limit)
        if found:
            return found
        query = "SELECT DISTINCT owner FROM usercontext_outbox WHERE target = %s AND owner != %s"
        others = [other for (other,) in self._rows(query, self._target, owner)]
        dead = [other for other in others if is_dead(other)]
        if not dead:
            return []
        return self._claimed(_CLAIM_OF, owner, LEASE_SECONDS, self._target, dead, limit)

    def extend(self, owner: str, tokens: Sequence[str]) -> None:
        """Begin the lease of what is claimed once more."""
        self._rows(_SET_UNTIL, LEASE_SECONDS, [int(token) for token in tokens], owner)

    def free(self, owner: str, tokens: Sequence[str]) -> None:
        """Let others adopt what is claimed."""
        self._rows(_SET_UNTIL, -1, [int(token) for token in tokens], owner)

    def remove(self, entries: Sequence[Entry]) -> None:
        """Delete what has met its end."""
        query = "DELETE FROM usercontext_outbox WHERE id = ANY(%s)"
        self._rows(query, [int(each.token) for each in entries])

    def expire(self, max_age: float) -> list[str]:
        """Delete what is older; return the ids of the events."""
        return [event_id for (event_id,) in self._rows(_DELETE_OLD, self._target, max_age)]

    def left(self, tokens: Sequence[str]) -> set[str]:
        """Return which of some tokens are still there."""
        query = "SELECT id FROM usercontext_outbox WHERE id = ANY(%s)"
        return {str(row[0]) for row in self._rows(query, [int(token) for token in tokens])}

    def leave(self, owner: str) -> None:
        """Do nothing: an owner is a name in what it has claimed."""

    def paused(self) -> float:
        """Return for how many seconds nobody is to send."""
        return max(0.0, float(self._rows(_PAUSED, self._target)[0][0]))

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long; a longer pause stays."""
        self._rows(_PAUSE, self._target, seconds)

    def status(self) -> EngineStatus:
        """Return what is held."""
        waiting, size, claimed, oldest = self._rows(_HELD, self._target)[0]
        return EngineStatus(waiting, claimed, size, oldest)

    def clear(self) -> int:
        """Delete all reports; return how many there were."""
        query = "DELETE FROM usercontext_outbox WHERE target = %s RETURNING 1"
        return len(self._rows(query, self._target))

    def targets(self) -> list[str]:
        """Return the DSNs of all servers that anything is kept for."""
        return [target for (target,) in self._rows(_TARGETS)]

    def close(self) -> None:
        """Close the connection; the next call opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abandon(self) -> None:
        """Leave the connection to the parent process."""
        self._abandoned.append(self._connection)
        self._connection = None

    # How it is done

    def _claimed(self, query: str, *values: object) -> list[Entry]:
        rows = sorted(self._rows(query, *values))
        return [Entry(str(token), event_id, bytes(payload)) for token, event_id, payload in rows]

    def _prune(self, bounds: EngineBounds) -> list[str]:
        self._unpruned = self._unpruned_bytes = 0
        gone = self.expire(bounds.max_age)
        number, size, *_ = self._rows(_HELD, self._target)[0]
        excess = max(0, number - bounds.max_reports)
        if size > bounds.max_bytes:
            (beyond,) = self._rows(_BEYOND, self._target, bounds.max_bytes)[0]
            excess = max(excess, beyond)
        if excess:
            oldest = self._rows(_DELETE_OLDEST, self._target, min(excess, _STEP))
            gone += [event_id for (event_id,) in oldest]
            self._unpruned = _PRUNE_EVERY  # What is too much by far goes on with the next.
        return gone

    def _rows(self, query: str, *values: object) -> list[Any]:
        """Run one statement, which is a transaction of its own; return what it returns."""
        with self._told():
            if self._connection is None:
                self._connection = self._connected()
            cursor = self._connection.execute(query, values)
            return list(cursor.fetchall()) if cursor.description is not None else []

    def _connected(self) -> Any:
        connection = self._psycopg.connect(
            self._address.url,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name="usercontext outbox",
            # A pooler between us and the engine need not know what was prepared.
            prepare_threshold=None,
            keepalives_idle=10,
            tcp_user_timeout=2 * _ANSWER_MS,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Any) -> None:
        version = connection.info.server_version
        if version < _OLDEST_VERSION:
            raise EngineError(
                f"its version is {version // 10_000}, and 12 or a newer one is needed"
            )
        # What is acknowledged is on the disk, whatever the engine's own default is.
        connection.execute("SET synchronous_commit TO on")
        connection.execute(f"SET statement_timeout TO {_ANSWER_MS}")
        if all(connection.execute(_ARE_THERE).fetchone()):
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_TABLES)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell in a few words what goes wrong in a block, and begin with a new connection."""
        try:
            yield
        except (self._psycopg.Error, OSError) as error:
            self._drop()
            raise EngineError(_reason(error)) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _reason(error: Any) -> str:
    reason = _REASONS.get(getattr(error, "sqlstate", None) or "")
    if reason is not None:
        return reason
    text = str(error)
    told = (reason for known, reason in _TEXTS.items() if known.lower() in text.lower())
    kind = type(error).__name__
    closed = "the connection was closed" if kind == "OperationalError" else f"an error of {kind}"
    return next(told, closed)
