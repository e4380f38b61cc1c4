"""Posts over httpx; the only file that knows it.

`httpx2`, the maintained continuation of httpx, where it is installed, httpx otherwise; neither
is imported before there is something to send to.
"""

from __future__ import annotations

import codecs
import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from usercontext.exceptions import ConfigurationError, MissingDependencyError
from usercontext.sentry.delivery.fork_guard import ForkGuard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from usercontext.sentry.dsn import Dsn

__all__ = ["HttpxConnection", "NetworkError"]

_MAX_ANSWER_BYTES = 65_536
_KEEPALIVE_SECONDS = 30.0


class NetworkError(Exception):
    """Raised when no answer was had for a reason of the network."""


class HttpxConnection:
    """One process's connection to a server, which is kept alive.

    Args:
        dsn: the server and project.
        timeout: seconds for each of connecting, writing and reading.
        proxy: URL of an HTTP proxy; without it the environment's `HTTPS_PROXY`, `HTTP_PROXY`,
            `ALL_PROXY` and `NO_PROXY` count.
        ca_certs: file of the certificates to trust, instead of the usual ones.

    Raises:
        MissingDependencyError: neither httpx2 nor httpx is installed.
    """

    def __init__(
        self, dsn: Dsn, *, timeout: float, proxy: str | None, ca_certs: str | None
    ) -> None:
        self._httpx = _import_httpx()
        self._dsn = dsn
        self._timeout = timeout
        self._proxy = proxy
        self._ssl_context = _ssl_context(ca_certs)
        self._forks = ForkGuard()
        self._pool: Any = None
        self._abandoned: list[Any] = []

    @property
    def library(self) -> str:
        """The name of the package that is used."""
        return str(self._httpx.__name__)

    def exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers.

        Raises:
            NetworkError: there was no answer.
        """
        try:
            with _untraced():
                return self._exchange(headers, body)
        except self._httpx.TransportError as error:
            raise NetworkError from error

    def close(self) -> None:
        """Close what is open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def before_fork(self) -> None:
        """Wait until no connection is being made."""
        self._forks.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let connections be made again."""
        self._forks.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Keep the parent's connections unused: closing one would say goodbye in its name."""
        self._abandoned.append(self._pool)
        self._pool = None
        self._forks = ForkGuard()

    def _exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str]]:
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        with self._forks.request() as connecting:
            if self._pool is None:
                connecting.begin()
                self._pool = self._connect()
            request = self._httpx.Request(
                "POST",
                self._dsn.endpoint,
                headers=headers,
                content=body,
                extensions={"timeout": timeout, "trace": connecting},
            )
            # Below httpx.Client: no redirects, cookies or hooks, and about twice as fast.
            response = self._pool.handle_request(request)
            try:
                _read(response, self._timeout)
            except self._httpx.TransportError:
                pass  # The status is here: whatever else was to come, the server has decided.
            finally:
                response.close()
        return response.status_code, response.headers

    def _connect(self) -> Any:
        proxy = self._proxy or _environment_proxy(self._dsn)
        # Reading all certificates takes long: only where there may be one to check.
        is_secure = proxy is not None or self._dsn.endpoint.startswith("https:")
        return self._httpx.HTTPTransport(
            verify=is_secure if self._ssl_context is None else self._ssl_context,
            limits=self._httpx.Limits(max_connections=1, keepalive_expiry=_KEEPALIVE_SECONDS),
            proxy=proxy,
        )


def _import_httpx() -> Any:
    try:
        import httpx2 as httpx
    except ImportError:
        try:
            import httpx  # type: ignore[no-redef]
        except ImportError:
            raise MissingDependencyError(
                "httpx", "sentry", purpose="Sending reports over HTTP"
            ) from None
    # What it imports at its first use is imported here: a fork while our thread is at it would
    # leave the child with half a module for good.
    httpx.HTTPTransport(verify=False).close()
    codecs.lookup("idna")  # for host names
    return httpx


def _ssl_context(ca_certs: str | None) -> Any:
    if ca_certs is None:
        return None
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_certs)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"ca_certs names no file of PEM certificates that can be read: {ca_certs!r}"
        ) from error


def _environment_proxy(dsn: Dsn) -> str | None:
    """Return the proxy that the environment names for the DSN's server."""
    proxies = getproxies()
    scheme = dsn.endpoint.partition(":")[0]
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(dsn.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@contextmanager
def _untraced() -> Iterator[None]:
    """Have OpenTelemetry, where the app has loaded it, make no spans of our own requests.

    Its instrumentation of httpx would make one of every report, and send headers of its own.
    """
    context = sys.modules.get("opentelemetry.context")
    key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", None)
    if context is None or key is None:
        yield
        return
    token = context.attach(context.set_value(key, True))
    try:
        yield
    finally:
        context.detach(token)


def _read(response: Any, timeout: float) -> None:
    """Read an answer, so that the connection can be used again, but not an endless one."""
    size = 0
    until = monotonic() + timeout
    for chunk in response.stream:
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES or monotonic() > until:
            return
