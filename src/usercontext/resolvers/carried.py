"""The user that another service of ours has carried here, and several resolvers in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

from usercontext import source as sources
from usercontext.address.forwarding import bare_address
from usercontext.address.networks import TrustedNetworks
from usercontext.address.peers import peer_of
from usercontext.carried import HEADER
from usercontext.core.following import NOT_YET, follows
from usercontext.core.record import current
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.carried import CarriedIdentity
    from usercontext.user import User

__all__ = ["CarriedUser", "first_of"]


class CarriedUser:
    """Resolve the user that a trusted peer names in the header of `usercontext.services`.

    What comes from any other peer is ignored, and so is what is signed with another key, for
    another audience or host, or too long ago. It is believed whole or not at all.

    Args:
        carried: reads; with the keys and the audience of whoever sends.
        trusted_proxies: the addresses and ranges of the services and proxies that are connected
            to this one, as `RequestData` takes them.
        hosts: the names by which this service is called; None: the name in the request's Host
            header, which a proxy must then leave as it is.

    Raises:
        ConfigurationError: an option is missing or wrong; the message names the fix.

    .. versionadded:: 0.1.0
    """

    #: It answers of the request alone, so a ready resolver beside it in `first_of` is followed.
    asks_nobody: Final = True

    def __init__(
        self,
        carried: CarriedIdentity,
        *,
        trusted_proxies: Iterable[str],
        hosts: Iterable[str] | None = None,
    ) -> None:
        if not callable(getattr(carried, "read", None)) or isinstance(carried, type):
            raise ConfigurationError(
                f"CarriedUser takes a CarriedIdentity, not {type(carried).__name__}: write "
                'CarriedUser(CarriedIdentity(keys=[KEY], audience="shop"), trusted_proxies=[...])'
            )
        self._carried = carried
        self._trusted = TrustedNetworks(trusted_proxies)
        if not self._trusted:
            raise ConfigurationError(
                "trusted_proxies is empty, so nobody would be believed: write "
                'trusted_proxies=["10.0.0.0/8"], the addresses of the services that call this one'
            )
        self._hosts = _checked_hosts(hosts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._carried!r})"

    def __call__(self, request: Any) -> User | None:
        """Return the user that a request carries, or None."""
        source = _source_of(request)
        text = sources.headers(source).get(HEADER)
        if text is None:
            return None
        if not self._is_trusted(source):
            self._carried.refuse("untrusted")
            return None
        return self._read(text, source)

    def _read(self, text: str, source: Mapping[str, Any]) -> User | None:
        names = self._hosts or (_host_of(source),)
        for name in names:
            if len(names) == 1 or self._carried.is_for(text, ("host", name)):
                return self._carried.read(text, ("host", name))
        return self._carried.read(text, ("host", names[0]))

    def _is_trusted(self, source: Mapping[str, Any]) -> bool:
        peer = peer_of(source)
        if peer.origin != "connection":
            # Whose address it is now, a header has said; who is connected is not known.
            return False
        if not peer.address:
            return self._trusted.includes_unix
        address = bare_address(str(peer.address))
        return address is not None and address in self._trusted


def _checked_hosts(hosts: object) -> tuple[str, ...]:
    if hosts is None:
        return ()
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise ConfigurationError(
            f"hosts must be a list of names, not {type(hosts).__name__}: write "
            'hosts=["billing.internal"]'
        )
    names = tuple(str(host).lower().rstrip(".") for host in hosts)
    if not all(names) or any("/" in name or "*" in name for name in names):
        raise ConfigurationError('hosts must hold names alone: write hosts=["billing.internal"]')
    return names


def _source_of(request: Any) -> Mapping[str, Any]:
    for name in ("scope", "environ", "META"):
        found = getattr(request, name, None)
        if isinstance(found, Mapping):
            return found
    record = current()
    # A request of a framework that has neither: its record was made of it.
    source = None if record is None else record.root.source
    return {} if source is None else source


def _host_of(source: Mapping[str, Any]) -> str:
    host = sources.host(source).lower()
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0].rstrip(".")


def first_of(*resolvers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a resolver whose user is the first that one of these finds, whole.

    `first_of(CarriedUser(...), JwtClaims(...))`. One that fails ends the search: nobody is
    named then, rather than somebody else. Ready resolvers among them still follow their framework,
    unless one beside them has to ask somebody.

    Args:
        resolvers: asked in this order; with an async one among them the result is async.

    Raises:
        ConfigurationError: there is none, or one is not a function.

    .. versionadded:: 0.1.0
    """
    for resolver in resolvers:
        given: object = resolver
        if not callable(given) or isinstance(given, type):
            raise ConfigurationError(
                f"first_of() takes resolvers, not {getattr(resolver, '__name__', resolver)!r:.80}: "
                "write first_of(CarriedUser(...), find_user)"
            )
    if not resolvers:
        raise ConfigurationError(
            "first_of() needs resolvers: write first_of(CarriedUser(...), ...)"
        )
    if any(map(_is_async, resolvers)):
        return _first_async(resolvers)
    first = _first(resolvers)
    return follows(_first_held(resolvers))(first) if all(map(_asks_nobody, resolvers)) else first


def _asks_nobody(resolver: Any) -> bool:
    """Return whether a resolver answers of the request alone, or of what its framework holds."""
    return hasattr(resolver, "held") or getattr(resolver, "asks_nobody", False)


def _first_held(resolvers: tuple[Any, ...]) -> Callable[[Any, Any], object]:
    shown = [one.held for one in resolvers if hasattr(one, "held")]

    def held(source: Any, request: Any) -> object:
        for show in shown:
            found: object = show(source, request)
            if found is not NOT_YET:
                return found
        return NOT_YET

    return held


def _is_async(resolver: Any) -> bool:
    return iscoroutinefunction(resolver) or iscoroutinefunction(
        getattr(resolver, "__call__", None)  # noqa: B004
    )


def _first(resolvers: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def first_of_several(request: Any) -> Any:
        found: Any = None
        for resolver in resolvers:
            answer = resolver(request)
            if answer is not None and answer is not NOT_YET:
                return answer
            found = answer if answer is NOT_YET else found
        return found

    return first_of_several


def _first_async(resolvers: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    async def first_of_several(request: Any) -> Any:
        found: Any = None
        for resolver in resolvers:
            answer = resolver(request)
            if _is_async(resolver):
                answer = await answer
            if answer is not None and answer is not NOT_YET:
                return answer
            found = answer if answer is NOT_YET else found
        return found

    return first_of_several
