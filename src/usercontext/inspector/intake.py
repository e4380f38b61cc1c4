"""Takes envelopes of any Sentry SDK, as a server of the protocol would; bounded in every way.

Sentry's developer documentation, "Envelopes" and "SDK Overview: Authentication". What an SDK sent
is kept as it came: the point is to see it.
"""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from usercontext.inspector import report as shown
from usercontext.inspector.index import connect_to_write

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_BODY", "Intake", "RefusedError", "decompressed", "events_of_envelope", "sent_key"]

#: In bytes, as it comes over the wire.
MAX_BODY = 2 << 20
_MAX_DECOMPRESSED = 10 << 20
_MAX_EVENT = 1 << 20
_MAX_ITEMS = 100
_MAX_REPORTS = 10_000
_MAX_BYTES = 256 << 20
_PRUNE_EVERY = 50
_CHUNK = 1 << 16
_EVENT_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"sentry_key=([0-9A-Za-z]{1,64})")

_INSERT = """
INSERT OR IGNORE INTO reports (event_id, timestamp, identity, payload) VALUES (?, ?, ?, ?)
"""
_TOO_MUCH = """
SELECT report FROM (
    SELECT report, row_number() OVER newest AS place, sum(size) OVER newest AS bytes
    FROM inspector_received WINDOW newest AS (ORDER BY report DESC))
WHERE place > ? OR bytes > ?
"""
Decompress: TypeAlias = Callable[[bytes], bytes]


class RefusedError(Exception):
    """A body is refused: the status of the answer, and why.

    Attributes:
        status: the status of HTTP.
        detail: what is wrong, for who set up the SDK.
    """

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(detail)


class SentEvent(NamedTuple):
    """An event as an SDK sent it."""

    event_id: str
    payload: dict[str, Any]


# -- reading --


def sent_key(auth_header: str, query_key: str, body: bytes) -> str:
    """Return the public key that came along: in the header, the query, or the envelope's DSN."""
    found = _KEY.search(auth_header)
    if found:
        return found[1]
    if query_key:
        return query_key
    header = _object(body.partition(b"\n")[0]) or {}
    dsn = header.get("dsn")
    if not isinstance(dsn, str):
        return ""
    return dsn.partition("//")[2].partition("@")[0].partition(":")[0]


def decompressed(body: bytes, encoding: str) -> bytes:
    """Return a body as it was before its `Content-Encoding`.

    Raises:
        RefusedError: it is too large, damaged, or of an encoding that cannot be read here.
    """
    names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
    for name in reversed([name for name in names if name != "identity"]):
        body = _decoder(name)(body)
        if len(body) > _MAX_DECOMPRESSED:
            raise RefusedError(413, f"the body is larger than {_MAX_DECOMPRESSED >> 20} MiB")
    return body


def _decoder(name: str) -> Decompress:
    decoders: dict[str, Decompress] = {
        "gzip": lambda body: _inflated(body, zlib.MAX_WBITS | 16),
        "deflate": lambda body: _inflated(body, zlib.MAX_WBITS),
        "br": _unbrotlied,
        "zstd": _unzstandarded,
    }
    if name not in decoders:
        raise RefusedError(415, f"the content encoding {name!r} is unknown: use gzip")
    return decoders[name]


def _inflated(body: bytes, bits: int) -> bytes:
    try:
        return zlib.decompressobj(bits).decompress(body, _MAX_DECOMPRESSED + 1)
    except zlib.error as error:
        raise RefusedError(400, "the body is not what its content encoding says") from error


def _unbrotlied(body: bytes) -> bytes:
    try:
        import brotli
    except ImportError:
        raise RefusedError(415, "install brotli beside usercontext, or use gzip") from None
    decompressor, parts, size = brotli.Decompressor(), [], 0
    try:
        for at in range(0, len(body), 256):  # little at once: it may grow a thousandfold
            parts.append(decompressor.process(body[at : at + 256]))
            size += len(parts[-1])
            if size > _MAX_DECOMPRESSED:
                break
    except brotli.error as error:
        raise RefusedError(400, "the body is not what its content encoding says") from error
    return b"".join(parts)


def _unzstandarded(body: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise RefusedError(415, "install zstandard beside usercontext, or use gzip") from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            return bytes(reader.read(_MAX_DECOMPRESSED + 1))
    except zstandard.ZstdError as error:
        raise RefusedError(400, "the body is not what its content encoding says") from error


def events_of_envelope(body: bytes) -> Iterator[SentEvent]:
    """Yield the events of an envelope; items of other kinds are skipped.

    Raises:
        RefusedError: it is not an envelope, or an event in it is too large.
    """
    line, _, rest = body.partition(b"\n")
    header = _object(line)
    if header is None:
        raise RefusedError(400, "invalid envelope: its first line is not a JSON object")
    for kind, payload in _items(rest):
        if kind == "event":
            yield event_of(payload, header.get("event_id"))


def _items(rest: bytes) -> Iterator[tuple[object, bytes]]:
    for _ in range(_MAX_ITEMS):
        rest = rest.lstrip(b"\r\n")
        if not rest:
            return
        line, _, rest = rest.partition(b"\n")
        header = _object(line)
        if header is None:
            raise RefusedError(400, "invalid envelope: an item's header is not a JSON object")
        length = header.get("length")
        if isinstance(length, int) and not isinstance(length, bool):
            if not 0 <= length <= len(rest):
                raise RefusedError(400, "invalid envelope: an item is shorter than its length")
            payload, rest = rest[:length], rest[length:]
        else:
            payload, _, rest = rest.partition(b"\n")
        yield header.get("type"), payload


def event_of(payload: bytes, event_id: object = None) -> SentEvent:
    """Return the event in a payload.

    Raises:
        RefusedError: it is none, or too large.
    """
    if len(payload) > _MAX_EVENT:
        raise RefusedError(413, f"an event is larger than {_MAX_EVENT >> 20} MiB")
    event = _object(payload)
    if event is None:
        raise RefusedError(400, "an event is not a JSON object")
    for candidate in (event.get("event_id"), event_id):
        found = candidate.replace("-", "").lower() if isinstance(candidate, str) else ""
        if _EVENT_ID.fullmatch(found):
            return SentEvent(found, event)
    raise RefusedError(400, "an event has no event_id of 32 hexadecimal digits")


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# -- keeping --


class Intake:
    """Writes what SDKs send into the file; the oldest of it makes room, never the app's reports.

    Args:
        file: a file that the inspector has indexed.
    """

    def __init__(self, file: Path) -> None:
        self._connection = connect_to_write(file)
        self._lock = threading.Lock()
        self._taken = 0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def keep(self, event: SentEvent) -> None:
        """Write an event; one that is there already stays as it is."""
        payload = json.dumps(event.payload, ensure_ascii=False, separators=(",", ":"))
        # A lone surrogate is valid JSON, and no valid text.
        payload = payload.encode("utf-8", "replace").decode()
        when = shown.time_of(event.payload)
        row = (
            event.event_id,
            time() if when is None else when,
            shown.identity(shown.user_of(event.payload)) or None,
            payload,
        )
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._insert(row, len(payload))
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def _insert(self, row: tuple[Any, ...], size: int) -> None:
        cursor = self._connection.execute(_INSERT, row)
        if not cursor.rowcount:
            return
        self._connection.execute(
            "INSERT OR REPLACE INTO inspector_received VALUES (?, ?)", (cursor.lastrowid, size)
        )
        self._taken += 1
        if self._taken % _PRUNE_EVERY == 0:
            self._prune(self._connection)

    @staticmethod
    def _prune(connection: sqlite3.Connection) -> None:
        gone = connection.execute(_TOO_MUCH, (_MAX_REPORTS, _MAX_BYTES)).fetchall()
        connection.executemany("DELETE FROM reports WHERE rowid = ?", gone)
