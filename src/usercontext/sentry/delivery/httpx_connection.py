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

from usercontext.optional import importing
from usercontext.sentry.delivery.network import NetworkError, reason_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from usercontext.sentry.delivery.fork_guard import ForkGuard
    from usercontext.sentry.dsn import Dsn

__all__ = ["HttpxConnection", "Library"]

_MAX_ANSWER_BYTES = 65_536
_KEEPALIVE_SECONDS = 30.0


class Library:
    """The one of the two packages that is installed.

    Raises:
        MissingDependencyError: neither is.
    """

    def __init__(self) -> None:
        self.module: Any = _import_httpx()

    @property
    def name(self) -> str:
        """The package's name."""
        return str(self.module.__name__)

    def ssl_context(self) -> ssl.SSLContext:
        """Return what checks certificates against the usual ones."""
        context: ssl.SSLContext = self.module.create_ssl_context()
        return context


class HttpxConnection:
    """One process's connection to a server, which is kept alive.

    Args:
        library: the package.
        dsn: the server and project.
        headers: what each request says.
        timeout: seconds for each of connecting, writing and reading.
        forks: holds forks back while a connection is being made.
        proxy: URL of a proxy.
        ssl_context: what checks certificates; else the usual ones are trusted.
    """

    def __init__(
        self,
        library: Library,
        dsn: Dsn,
        headers: Mapping[str, str],
        *,
        timeout: float,
        forks: ForkGuard,
        proxy: str | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._httpx = library.module
        self._dsn = dsn
        self._headers = headers
        self._timeout = timeout
        self._forks = forks
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._pool: Any = None
        self._abandoned: list[Any] = []

    def exchange(self, body: bytes, encoding: str | None) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers.

        Raises:
            NetworkError: there was no answer.
        """
        coding = {} if encoding is None else {"Content-Encoding": encoding}
        try:
            with _untraced():
                return self._exchange({**self._headers, **coding}, body)
        except self._httpx.TransportError as error:
            raise NetworkError(self._through(reason_of(error))) from error

    def close(self) -> None:
        """Close what is open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def after_fork_in_child(self) -> None:
        """Keep the parent's connections unused: closing one would say goodbye in its name."""
        self._abandoned.append(self._pool)
        self._pool = None

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

    def _through(self, reason: str) -> str:
        """Name the proxy, without its password, in what is told of a way through it."""
        if self._proxy is None:
            return reason
        return f"{reason}, through the proxy {self._proxy.rpartition('@')[2].rpartition('/')[2]}"

    def _connect(self) -> Any:
        # Reading all certificates takes long: only where there may be one to check.
        is_secure = self._proxy is not None or self._dsn.endpoint.startswith("https:")
        return self._httpx.HTTPTransport(
            verify=is_secure if self._ssl_context is None else self._ssl_context,
            limits=self._httpx.Limits(max_connections=1, keepalive_expiry=_KEEPALIVE_SECONDS),
            proxy=self._proxy,
        )


def _import_httpx() -> Any:
    try:
        import httpx2 as httpx
    except ImportError:
        with importing("httpx", "sentry", purpose="Sending reports over HTTP"):
            import httpx  # type: ignore[no-redef]
    # What it imports at its first use is imported here: a fork while our thread is at it would
    # leave the child with half a module for good.
    httpx.HTTPTransport(verify=False).close()
    codecs.lookup("idna")  # for host names
    return httpx


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
