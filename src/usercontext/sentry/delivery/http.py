"""Sends envelopes over HTTP; the only file that knows httpx.

`httpx2`, the maintained continuation of httpx, where it is installed, httpx otherwise; neither
is imported before there is something to send to.
"""

from __future__ import annotations

import codecs
import gzip
import random
import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol
from urllib.request import getproxies, proxy_bypass

from usercontext.diagnostics import failure, warn_once
from usercontext.exceptions import ConfigurationError, MissingDependencyError
from usercontext.sentry.delivery.envelope import (
    USER_AGENT,
    auth_header,
    build_envelope,
    split_discarded,
)
from usercontext.sentry.delivery.fork_guard import ForkGuard
from usercontext.sentry.delivery.queue import UNREPORTED_BACKOFF, BackgroundTransport
from usercontext.sentry.delivery.rate_limits import RateLimits
from usercontext.sentry.event.payload import encode_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from usercontext.sentry.dsn import Dsn
    from usercontext.types import Event

__all__ = ["HttpTransport", "Transport"]

_GZIP_FROM_BYTES = 1024
_GZIP_LEVEL = 4
_MAX_ANSWER_BYTES = 65_536
_KEEPALIVE_SECONDS = 30.0
_RETRY_SECONDS = (0.5, 2.0)


class Transport(Protocol):
    """Takes finished events; `SentryClient(transport=...)` hands them to one of the app's own.

    The client asks `has_room` before it builds an event, and tells `discard` of each one that
    it drops itself, by the Sentry protocol's name of the reason.
    """

    def has_room(self) -> bool:
        """Return whether an event would be taken now."""

    def submit(self, event: Event, /) -> bool:
        """Take a finished event without blocking; return whether it was taken."""

    def discard(self, reason: str, /) -> None:
        """Count an event that was dropped on its way."""

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all events taken are dealt with; return whether it was in time."""

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, then stop; return whether it was in time."""

    def stats(self) -> dict[str, Any]:
        """Return the numbers `captured`, `sent`, `queued`, and `discarded` by reason."""


class HttpTransport(BackgroundTransport):
    """Posts each event to the DSN's server.

    Answers of 400 and above are final, as the protocol asks. An event that could not be sent for
    a reason of the network is tried thrice, the later ones once until one gets through.

    Args:
        dsn: the server and project.
        timeout: seconds for each of connecting, writing and reading.
        proxy: URL of an HTTP proxy; without it the environment's `HTTPS_PROXY`, `HTTP_PROXY`,
            `ALL_PROXY` and `NO_PROXY` count.
        ca_certs: file of the certificates to trust, instead of the usual ones.
        **queue: the options of `BackgroundTransport`.

    Raises:
        MissingDependencyError: neither httpx2 nor httpx is installed.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        timeout: float = 10.0,
        proxy: str | None = None,
        ca_certs: str | None = None,
        **queue: Any,
    ) -> None:
        self._httpx = _import_httpx()
        self._dsn = dsn
        self._timeout = timeout
        self._proxy = proxy
        self._ssl_context = _ssl_context(ca_certs)
        self._headers = {
            "Content-Type": "application/x-sentry-envelope",
            "User-Agent": USER_AGENT,
            "X-Sentry-Auth": auth_header(dsn.public_key),
        }
        self._limits = RateLimits()
        self._forks = ForkGuard()
        self._connection: Any = None
        self._abandoned: list[Any] = []
        self._network_is_down = False
        super().__init__(**queue)

    def deliver(self, event: Event) -> str | None:
        """Post one event; return None, or why it was discarded."""
        if self._limits.is_limited(monotonic()):
            return "ratelimit_backoff"
        payload = encode_event(event)
        if payload is None:
            warn_once("event size", "usercontext dropped a report of more than 1 MiB")
            return "send_error"
        return self.send(event, payload)

    def send(self, event: Event, payload: bytes) -> str | None:
        """Post an event of which this is the JSON; return None, or why it was discarded."""
        return self._post_with_retries(event["event_id"], payload)

    def release(self) -> None:
        """Close the connections."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abandon(self) -> None:
        """Keep the parent's connections unused: closing one would say goodbye in its name."""
        self._abandoned.append(self._connection)
        self._connection = None
        self._forks = ForkGuard()

    def before_fork(self) -> None:
        """Wait until no connection is being made."""
        self._forks.before_fork()

    def after_fork_in_parent(self) -> None:
        """Let connections be made again."""
        self._forks.after_fork_in_parent()

    def _post_with_retries(self, event_id: str, payload: bytes) -> str | None:
        pauses = iter(() if self._network_is_down else _RETRY_SECONDS)
        while True:
            try:
                reason = self._post(event_id, payload)
            except self._httpx.TransportError:
                pause = next(pauses, None)
                if pause is None:
                    return self._network_failed()
                self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            self._network_is_down = False
            return reason

    def _network_failed(self) -> str:
        self._network_is_down = True
        failure(
            f"network to {self._dsn.host}",
            "usercontext cannot reach %s and drops reports until it can",
            self._dsn.host,
        )
        return "network_error"

    def _post(self, event_id: str, payload: bytes) -> str | None:
        discarded, later = split_discarded(self._take_unreported())
        self._give_back_unreported(later)
        body = build_envelope(event_id, payload, dsn=self._dsn.public, discarded=discarded)
        headers = self._headers
        if len(body) >= _GZIP_FROM_BYTES:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers = {**headers, "Content-Encoding": "gzip"}
        try:
            status, answered = self._exchange(headers, body)
        except BaseException:
            self._give_back_unreported(discarded)
            raise
        self._limits.update(status, answered, monotonic())
        return self._judge(status)

    def _exchange(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str]]:
        """Post a body and return the answer's status and headers."""
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        with _untraced(), self._forks.request() as connecting:
            if self._connection is None:
                connecting.begin()
                self._connection = self._connect()
            request = self._httpx.Request(
                "POST",
                self._dsn.endpoint,
                headers=headers,
                content=body,
                extensions={"timeout": timeout, "trace": connecting},
            )
            # Below httpx.Client: no redirects, cookies or hooks, and about twice as fast.
            response = self._connection.handle_request(request)
            try:
                _read(response, self._timeout)
            except self._httpx.TransportError:
                pass  # The status is here: whatever else was to come, the server has decided.
            finally:
                response.close()
        return response.status_code, response.headers

    def _judge(self, status: int) -> str | None:
        if 200 <= status < 300:
            return None
        if status == 429:
            return UNREPORTED_BACKOFF
        warn_once(
            f"status {status} of {self._dsn.host}",
            "%s answered %d to a report, which is lost: check the DSN and the server's log",
            self._dsn.host,
            status,
        )
        return "send_error"

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
