"""The way to a server: a socket of our own, or httpx for what that does not do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.fork_guard import ForkGuard
from usercontext.sentry.delivery.httpx_connection import HttpxConnection, Library
from usercontext.sentry.delivery.network import NetworkError
from usercontext.sentry.delivery.proxies import by_httpx_url, environment_proxy, is_plain
from usercontext.sentry.delivery.socket_connection import Place, SocketConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from usercontext.sentry.delivery.network import Connection
    from usercontext.sentry.dsn import Dsn

__all__ = ["ServerConnection"]


class ServerConnection:
    """One process's connection to a server, for one thread after the other.

    Args:
        dsn: the server and project.
        headers: what each request says.
        timeout: seconds for each of connecting, writing and reading.
        proxy: URL of a proxy, of HTTP or SOCKS 5; without it the environment's `HTTPS_PROXY`,
            `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` count.
        ca_certs: file of the certificates to trust, instead of the usual ones.
        by_httpx: whether httpx is to send, also where a socket would do.

    Raises:
        MissingDependencyError: neither httpx2 nor httpx is installed, or httpx is to use a SOCKS
            proxy without socksio.
        ConfigurationError: `ca_certs` cannot be read, or the environment's proxy is of an unknown
            kind.
    """

    def __init__(
        self,
        dsn: Dsn,
        headers: Mapping[str, str],
        *,
        timeout: float,
        proxy: str | None,
        ca_certs: str | None,
        by_httpx: bool,
    ) -> None:
        self.library: Library = Library()
        self._dsn = dsn
        self._headers = headers
        self._timeout = timeout
        self._proxy = proxy
        self._own_ssl_context = _ssl_context(ca_certs)
        self._by_httpx = by_httpx
        self._forks = ForkGuard()
        self._lock = threading.Lock()
        self._way: Connection | None = None
        self._find_proxy()  # A wrong one is refused here, and not by losing reports.

    def exchange(self, body: bytes, encoding: str | None) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers.

        Raises:
            NetworkError: there was no answer, or another thread waits for one.
        """
        if not self._lock.acquire(timeout=self._timeout):
            raise NetworkError("another thread waits for an answer")
        try:
            if self._way is None:
                self._way = self._choose()
            return self._way.exchange(body, encoding)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close what is open, unless another thread is using it."""
        if self._lock.acquire(blocking=False):
            try:
                if self._way is not None:
                    self._way.close()
            finally:
                self._lock.release()

    def before_fork(self) -> None:
        """Wait until no connection is being made."""
        self._forks.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let connections be made again."""
        self._forks.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connection to it."""
        self._lock = threading.Lock()
        self._forks = ForkGuard()
        if self._way is not None:
            self._way.after_fork_in_child()
            self._way = None

    def _choose(self) -> Connection:
        proxy = self._find_proxy()
        if self._by_httpx or not is_plain(proxy):
            return HttpxConnection(
                self.library,
                self._dsn,
                self._headers,
                timeout=self._timeout,
                forks=self._forks,
                proxy=proxy,
                ssl_context=self._own_ssl_context,
            )
        return SocketConnection(
            Place.of(self._dsn.endpoint),
            self._headers,
            timeout=self._timeout,
            forks=self._forks,
            proxy=None if proxy is None else Place.of(proxy),
            ssl_context=self._ssl_context,
        )

    def _find_proxy(self) -> str | None:
        proxy = self._proxy or environment_proxy(self._dsn)
        return by_httpx_url(proxy) if self._by_httpx else proxy

    def _ssl_context(self) -> ssl.SSLContext:
        if self._own_ssl_context is not None:
            return self._own_ssl_context
        # Reading all certificates takes long: only where there is one to check.
        return self.library.ssl_context()


def _ssl_context(ca_certs: str | None) -> ssl.SSLContext | None:
    if ca_certs is None:
        return None
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_certs)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"ca_certs names no file of PEM certificates that can be read: {ca_certs!r}"
        ) from error
