"""Asks a SOCKS 5 proxy for a way to a server (RFC 1928, RFC 1929)."""

from __future__ import annotations

import socket
from typing import Final

from usercontext.sentry.delivery.network import ProxyError

__all__ = ["open_way"]

_VERSION: Final = 5
_NO_LOGIN, _PASSWORD = 0, 2
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_LENGTHS: Final = {_IPV4: 4, _IPV6: 16}
_REFUSALS: Final = {
    2: "its rules forbid the server",
    3: "it cannot reach the server's network",
    4: "it cannot reach the server",
    5: "the server refused its connection",
    6: "the server did not answer it in time",
}


def open_way(
    connection: socket.socket, host: str, port: int, login: tuple[str, str] | None
) -> None:
    """Have the proxy connect to a server, whose name it looks up itself.

    Raises:
        ProxyError: it does not.
    """
    method = _NO_LOGIN if login is None else _PASSWORD
    connection.sendall(bytes((_VERSION, 1, method)))
    if _read(connection, 2) != bytes((_VERSION, method)):
        wants = "needs a name and password" if login is None else "takes no name and password"
        raise ProxyError(f"it speaks no SOCKS 5, or {wants}")
    if login is not None:
        _log_in(connection, *(text.encode() for text in login))
    connection.sendall(bytes((_VERSION, _CONNECT, 0)) + _place(host) + port.to_bytes(2))
    _, answered, _, kind = _read(connection, 4)
    if answered:
        raise ProxyError(_REFUSALS.get(answered, f"it answered {answered}"))
    length = _LENGTHS.get(kind) or _read(connection, 1)[0]
    _read(connection, length + 2)


def _log_in(connection: socket.socket, name: bytes, password: bytes) -> None:
    connection.sendall(b"\1%c%b%c%b" % (len(name), name, len(password), password))
    if _read(connection, 2)[1]:
        raise ProxyError("it refused the name or password")


def _place(host: str) -> bytes:
    for kind, family in ((_IPV4, socket.AF_INET), (_IPV6, socket.AF_INET6)):
        try:
            return bytes((kind,)) + socket.inet_pton(family, host)
        except OSError:
            continue
    name = host.encode("idna")
    return bytes((_NAME, len(name))) + name


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        received = connection.recv(size - len(found))
        if not received:
            raise ProxyError("it closed the connection")
        found += received
    return found
