"""What of a request may be reported: each part by its own flag, the address by the trust rules.

Bodies are never read; only what the app handed over is reported, if that is asked for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from usercontext import checks
from usercontext.address.client import BEGAN, ClientAddress, ProxyTrust
from usercontext.source import snapshot

if TYPE_CHECKING:
    from usercontext.address.anonymize import AnonymizeOption, Anonymizer
    from usercontext.address.client import Observed
    from usercontext.source import Source

__all__ = ["RequestData"]

_FLAGS = (
    "include_ip",
    "include_url",
    "include_query_string",
    "include_headers",
    "include_cookies",
    "include_data",
)
_TRUST = ("trusted_proxies", "trusted_hops", "forwarded_header")
_OPTIONS = (*_FLAGS, *_TRUST, "anonymize_ip", "platform")
_NOTHING_TRUSTED = ((), None, "x-forwarded-for")


def _anonymizer(option: object) -> Anonymizer | None:
    if option is False:
        return None
    from usercontext.address.anonymize import anonymizer  # of use to those who ask for it

    return anonymizer(option)


def _platform_trust(name: str, *given: Any) -> ProxyTrust:
    from usercontext.address.platforms import (
        FUNCTIONS,
        platform_named,
    )  # of use to those who name one

    found = platform_named(name, *given)
    return ProxyTrust(*found[:3], is_function=name in FUNCTIONS)


class RequestData:
    """Says what of a request may be reported, and which proxies to believe about its client.

    Only the method and the URL, without its query, are reported unless more is asked for.
    Immutable, and equal by its options.

    Args:
        include_ip: report the client's address, as `user.ip_address` where the user has none of
            its own, and as `request.env.REMOTE_ADDR`. Without it no collected address leaves,
            in whatever part of the request it stands.
        include_url: report scheme, host and path.
        include_query_string: report the query string, with the values of secret names filtered.
        include_headers: report the headers, secrets filtered, the cookie header left out.
        include_cookies: report the cookies, secrets filtered.
        include_data: report what `set_request_data` was given.
        trusted_proxies: see `usercontext.address.client.ProxyTrust`.
        trusted_hops: see there.
        forwarded_header: see there.
        anonymize_ip: False, `"mask"` (keeps /24 of IPv4 and /48 of IPv6), a pair of prefixes
            such as `(16, 32)`, or a callable from address to address. Applied before anything
            else sees the address; then the raw one leaves nowhere.
        platform: where the app runs, instead of `trusted_proxies`, `trusted_hops` and
            `forwarded_header`: "app-engine", "aws-alb", "aws-lambda", "fly", "heroku",
            "railway" or "vercel", each of which says in public what its front end writes.

    Raises:
        ConfigurationError: an option is wrong; the text names it, and what to write instead.

    .. versionadded:: 0.1.0
    """

    __slots__ = (*_OPTIONS, "_anonymize", "_trust")

    include_ip: bool
    include_url: bool
    include_query_string: bool
    include_headers: bool
    include_cookies: bool
    include_data: bool
    trusted_proxies: tuple[str, ...]
    trusted_hops: int | None
    forwarded_header: str
    anonymize_ip: AnonymizeOption
    platform: str | None
    _anonymize: Anonymizer | None
    _trust: ProxyTrust

    @checks.options_by_name
    def __init__(  # noqa: PLR0917 (the contract's order)
        self,
        include_ip: bool = False,
        include_url: bool = True,
        include_query_string: bool = False,
        include_headers: bool = False,
        include_cookies: bool = False,
        include_data: bool = False,
        trusted_proxies: list[str] | tuple[str, ...] | set[str] | frozenset[str] = (),
        trusted_hops: int | None = None,
        forwarded_header: str = "x-forwarded-for",
        anonymize_ip: AnonymizeOption = False,
        platform: str | None = None,
    ) -> None:
        flags = (
            include_ip,
            include_url,
            include_query_string,
            include_headers,
            include_cookies,
            include_data,
        )
        put = partial(object.__setattr__, self)
        for name, flag in zip(_FLAGS, flags, strict=True):
            put(name, checks.flag(name, flag))
        if platform is None:
            trust = ProxyTrust(trusted_proxies, trusted_hops, forwarded_header)
        else:
            trust = _platform_trust(platform, trusted_proxies, trusted_hops, forwarded_header)
        put("platform", platform)
        put("trusted_proxies", trust.trusted_proxies)
        put("trusted_hops", trust.trusted_hops)
        put("forwarded_header", trust.forwarded_header)
        put("anonymize_ip", tuple(anonymize_ip) if isinstance(anonymize_ip, list) else anonymize_ip)
        put("_anonymize", _anonymizer(anonymize_ip))
        put("_trust", trust)

    def locate(self, source: Source) -> ClientAddress:
        """Find the client's address in an ASGI scope or WSGI environ, and say how it was found.

        Works whatever `include_ip` says; the address is anonymised if that is asked for.
        """
        return ClientAddress(*self._outcome(source))

    def observe(self, source: Source) -> Observed:
        """Take from a request what its address can be read of later; cheap, nothing is parsed."""
        return self._trust.observe(source)

    def snapshot(self, source: Source) -> dict[str, Any] | None:
        """Copy what reports are made of, with what the request says of its client."""
        copied = snapshot(source)
        if copied is not None:
            copied[BEGAN] = self._trust, self._trust.observe(source)
        return copied

    def observed_ip_address(self, observed: Observed) -> str | None:
        """Return what `ip_address` would have, of what `observe` took from the request."""
        address = self._trust.read(observed)[0] if self.include_ip else None
        return address if address is None or self._anonymize is None else self._anonymize(address)

    def ip_address(self, source: Source) -> str | None:
        """Return the client's address as it may be reported: None unless `include_ip`."""
        if not self.include_ip:
            return None
        # In two steps rather than by `outcome`, as this is asked at nearly every report.
        trust = self._trust
        answer, lines, reads = trust.observe(source)
        address = (trust.header.read(lines, answer) if reads else answer)[0]
        return address if address is None or self._anonymize is None else self._anonymize(address)

    def _outcome(self, source: Source) -> Any:
        outcome = self._trust.outcome(source)
        if self._anonymize is None or outcome[0] is None:
            return outcome
        return (self._anonymize(outcome[0]), *outcome[1:])

    def _values(self) -> tuple[object, ...]:
        values = {name: getattr(self, name) for name in _OPTIONS}
        if self.platform is not None:
            values |= zip(_TRUST, _NOTHING_TRUSTED, strict=True)
        return tuple(values.values())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("RequestData cannot be changed: build another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("RequestData cannot be changed: build another one")

    def __eq__(self, other: object) -> bool:
        return (
            self._values() == other._values() if isinstance(other, RequestData) else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type[RequestData], tuple[object, ...]]:
        return type(self), self._values()

    def __repr__(self) -> str:
        default = _defaults()
        changed = [
            f"{name}={value!r}"
            for name, value in zip(_OPTIONS, self._values(), strict=True)
            if value != default[name]
        ]
        return f"RequestData({', '.join(changed)})"


def _defaults() -> dict[str, object]:
    return dict(zip(_OPTIONS, RequestData()._values(), strict=True))
