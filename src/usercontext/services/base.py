"""What every HTTP client needs: which hosts are told, and what they are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from usercontext.carried import HEADER
from usercontext.core.context import outgoing
from usercontext.core.lifecycle import resolve
from usercontext.core.record import UNKNOWN, current
from usercontext.core.settings import default
from usercontext.diagnostics import harmless, warn_once
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from usercontext.carried import CarriedIdentity

__all__ = ["HEADER", "Carrier"]

_PORTS: Final = {"https": 443, "http": 80}


class Carrier:
    """Says what a request has in its header, if anything.

    Args:
        hosts: origins such as "https://billing.internal:8443"; each is exactly one scheme, host
            and port. A name alone is meant with https.
        carried: signs; None: `init()`'s.
        allow_plain_http: let other hosts than this machine be told over http, where anybody on
            the way can read and repeat it.

    Raises:
        ConfigurationError: a host is not an origin, or would be told over plain http.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        carried: CarriedIdentity | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        if isinstance(hosts, str) or not isinstance(hosts, Iterable):
            raise ConfigurationError(
                f"hosts must be a list of origins, not {type(hosts).__name__}: write "
                'hosts=["https://billing.internal"]'
            )
        self.origins: frozenset[tuple[str, str, int]] = frozenset(
            _origin_of(host, allow_plain_http=allow_plain_http) for host in hosts
        )
        if not self.origins:
            raise ConfigurationError(
                'hosts is empty, so nobody would be told: write hosts=["https://billing.internal"]'
            )
        self._carried = carried
        self._allows_plain_http = allow_plain_http

    def header(
        self, scheme: str, host: str, port: int | None, *, by_proxy: bool = False
    ) -> str | None:
        """Return the header's value for a request; None where nothing is said.

        A sync resolver is asked first.

        Args:
            scheme: of the request's URL.
            host: likewise.
            port: likewise; None: the scheme's own.
            by_proxy: whether a proxy between is given the request, which reads plain http.
        """
        if by_proxy and scheme == "http" and not self._allows_plain_http:
            return None
        record = current()
        if record is None or not self._lists(scheme, host, port):
            return None
        carried = self._carried or default().carried
        if carried is None:
            _warn_unconfigured()
            return None
        with harmless("services mark", "a request to another service carries nobody"):
            return carried.sign(outgoing(record), ("host", _name_of(host)))
        return None

    def _lists(self, scheme: str, host: str, port: int | None) -> bool:
        return (scheme, _name_of(host), port or _PORTS.get(scheme, 0)) in self.origins

    async def header_async(
        self, scheme: str, host: str, port: int | None, *, by_proxy: bool = False
    ) -> str | None:
        """Do what `header` does, and await an async resolver first."""
        # A request to a stranger asks nobody.
        record = current() if self._lists(scheme, host, port) else None
        if record is not None and record.ended is None and record.user is UNKNOWN:
            await resolve(record)
        return self.header(scheme, host, port, by_proxy=by_proxy)


def _name_of(host: str) -> str:
    return host.lower().rstrip(".")


def _warn_unconfigured() -> None:
    warn_once(
        "services: nothing is carried",
        "requests to other services are sent without a user: call usercontext.init(carried="
        'CarriedIdentity(keys=[KEY], audience="shop")) in this process',
    )


def _shown(text: str) -> str:
    """Return an origin for a message, without a password or a token that stands in it."""
    scheme, separator, rest = text.rpartition("://")
    place = rest.partition("?")[0].rpartition("@")
    hidden = "...@" if place[1] else ""
    return repr(f"{scheme}{separator}{hidden}{place[2]}"[:100])


def _no_origin(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"hosts: {_shown(text)} is not an origin: write scheme, host and port alone, such as "
        '"https://billing.internal:8443"; there are no wildcards'
    )


def _origin_of(text: object, *, allow_plain_http: bool) -> tuple[str, str, int]:
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"hosts must hold texts, not {type(text).__name__}")
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # whose text quotes what may be a part of a password
        raise _no_origin(text) from None
    is_origin = host and parts.scheme in _PORTS and parts.path in ("", "/")
    if not is_origin or parts.query or parts.fragment or "@" in parts.netloc or "*" in host:
        raise _no_origin(text)
    if parts.scheme == "http" and not (allow_plain_http or _is_loopback(host)):
        raise ConfigurationError(
            f"hosts: {_shown(text)} would be told over plain http, where anybody on the way can "
            "repeat it: write https://, or allow_plain_http=True if the network is yours alone"
        )
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
