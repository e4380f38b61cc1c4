"""Reads a server's answer to one request from a socket (HTTP/1.1, RFC 9112)."""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

__all__ = ["Answer", "read_answer"]

_MAX_HEAD_BYTES = 65_536
_MAX_BODY_BYTES = 65_536
_RECEIVED_AT_ONCE = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\Z")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}(?=[ \t]*(?:;|\Z))")
_EMPTY = frozenset({204, 304})


class Answer(NamedTuple):
    """What a server has said."""

    status: int
    #: By their names in lower case; lines of one name are joined.
    headers: Mapping[str, str]
    #: Whether the connection may be used again: the answer is read to its end.
    is_reusable: bool


def read_answer(connection: socket.socket, seconds: float, *, has_body: bool = True) -> Answer:
    """Read an answer; informational ones before it are passed over.

    A body that does not end in time, or is long, ends the connection: the status counts.

    Args:
        connection: a socket, on which nothing waited before the request was sent.
        seconds: how long all of it may take.
        has_body: whether there is a body; an answer to CONNECT has none.

    Raises:
        OSError: the connection failed, or ended before the answer had begun, or took too long.
        ValueError: this is not HTTP.
    """
    reader = _Reader(connection, seconds)
    while True:
        minor, status, headers = _parsed(reader.take_head())
        if status >= 200:
            break
    keeps_alive = _keeps_alive(minor, headers)
    try:
        is_at_end = not has_body or status in _EMPTY or _skip_body(reader, headers)
    except (OSError, ValueError):
        is_at_end = False
    return Answer(status, headers, keeps_alive and is_at_end and not reader.has_more)


class _Reader:
    """Takes what a socket receives, piece by piece."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = monotonic() + seconds
        self._buffer = b""
        self._is_first = True

    @property
    def has_more(self) -> bool:
        return bool(self._buffer)

    def take_head(self) -> bytes:
        """Take all up to an empty line."""
        while (found := _END_OF_HEAD.search(self._buffer)) is None:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("an endless head")
            self._receive()
        head, self._buffer = self._buffer[: found.start()], self._buffer[found.end() :]
        return head

    def take_line(self) -> bytes:
        """Take a line, without its end."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("an endless line")
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def skip(self, size: int) -> None:
        """Take so many bytes, of no interest."""
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = b""
            self._receive()
        self._buffer = self._buffer[size:]

    def _receive(self) -> None:
        if not self._is_first:
            # The first time, the socket has its own timeout, which is the same.
            left = self._until - monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
        self._is_first = False
        received = self._connection.recv(_RECEIVED_AT_ONCE)
        if not received:
            raise ConnectionError("the server closed the connection")
        self._buffer += received


def _parsed(head: bytes) -> tuple[int, int, dict[str, str]]:
    """Return the minor version, the status and the headers."""
    first, *lines = head.split(b"\n")
    found = _STATUS_LINE.match(first.rstrip(b"\r"))
    if found is None:
        raise ValueError("no status line")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.decode("latin-1").partition(":")
        if colon:
            name, value = name.lower(), text.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(found[1]), int(found[2]), headers


def _keeps_alive(minor: int, headers: Mapping[str, str]) -> bool:
    options = headers.get("connection", "").lower()
    return "keep-alive" in options if minor == 0 else "close" not in options


def _skip_body(reader: _Reader, headers: Mapping[str, str]) -> bool:
    """Read the body to its end; False if that is not worth it, or only the connection's end."""
    coding = headers.get("transfer-encoding")
    if coding is not None:
        return coding.lower().endswith("chunked") and _skip_chunks(reader)
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > _MAX_BODY_BYTES:
        return False
    reader.skip(int(length))
    return True


def _skip_chunks(reader: _Reader) -> bool:
    room = _MAX_BODY_BYTES
    while room > 0:
        size = _CHUNK_SIZE.match(reader.take_line())
        if size is None:
            raise ValueError("no size of a chunk")
        length = int(size[0], 16)
        if length == 0:
            while reader.take_line():
                pass  # fields after the last chunk
            return True
        room -= length
        if room > 0:
            reader.skip(length)
            reader.take_line()
    return False
