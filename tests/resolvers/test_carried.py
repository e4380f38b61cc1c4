"""A carried user is believed from trusted peers alone, whole or not at all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import itsdangerous
import pytest

import usercontext
from tests import driver
from tests.requests_of import environ_of, scope_of
from usercontext import NOT_YET, ConfigurationError, User, get_user, wsgi
from usercontext.carried import HEADER, CarriedIdentity
from usercontext.core.following import follows
from usercontext.resolvers import CarriedUser, first_of

assert itsdangerous.__name__, "what these tests are skipped without"

KEY = "a key of thirty-two bytes or more"


def identity(**options: Any) -> CarriedIdentity:
    """Make one with keys and an audience."""
    return CarriedIdentity(**{"keys": [KEY], "audience": "shop", **options})


def request_of(peer: str | None, header: str | None, host: str = "billing.internal") -> Any:
    """Return a request as frameworks hand it to resolvers."""
    headers = [("Host", host)] + ([] if header is None else [(HEADER, header)])
    return SimpleNamespace(scope=scope_of(peer, headers))


def signed(host: str = "billing.internal") -> str:
    """Sign ada for a host."""
    text = identity().sign(User(id="ada", email="ada@shop.example"), ("host", host))
    assert text is not None
    return text


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "192.168.7.1"])
def test_a_trusted_peer_is_believed(peer: str) -> None:
    """A service in a trusted network says who the user is."""
    resolver = CarriedUser(identity(), trusted_proxies=["10.0.0.0/8", "192.168.7.1"])
    assert resolver(request_of(peer, signed())) == User(id="ada")


@pytest.mark.parametrize("peer", ["203.0.113.7", "11.0.0.1", "nonsense", None])
def test_no_other_peer_is_believed(peer: str | None) -> None:
    """What any other peer says is ignored and counted, though it is rightly signed."""
    carried = identity()
    assert CarriedUser(carried, trusted_proxies=["10.0.0.0/8"])(request_of(peer, signed())) is None
    assert carried.stats() == {"untrusted": 1}


def test_a_unix_socket_is_trusted_by_name() -> None:
    """A peer without an address is believed where `unix` is listed."""
    resolver = CarriedUser(identity(), trusted_proxies=["unix"])
    assert resolver(request_of(None, signed())) == User(id="ada")


def test_an_address_from_a_header_is_no_peer() -> None:
    """Where a server has replaced the peer's address by a header's, nobody is believed."""
    request = request_of("10.1.2.3", signed())
    request.scope["client"] = ("10.1.2.3", 0)
    assert CarriedUser(identity(), trusted_proxies=["10.0.0.0/8"])(request) is None


def test_the_peer_behind_werkzeugs_proxy_fix() -> None:
    """ProxyFix keeps who is really connected, and that peer counts."""
    for real, user in (("10.1.2.3", User(id="ada")), ("203.0.113.7", None)):
        environ = environ_of("10.9.9.9", [("Host", "billing.internal"), (HEADER, signed())])
        environ["werkzeug.proxy_fix.orig"] = {"REMOTE_ADDR": real}
        resolver = CarriedUser(identity(), trusted_proxies=["10.0.0.0/8"])
        assert resolver(SimpleNamespace(environ=environ)) == user


@pytest.mark.parametrize("name", ["environ", "META"])
def test_wsgi_requests(name: str) -> None:
    """The requests of Werkzeug and of Django are read as well."""
    environ = environ_of("10.1.2.3", [("Host", "billing.internal:8080"), (HEADER, signed())])
    resolver = CarriedUser(identity(), trusted_proxies=["10.0.0.0/8"])
    assert resolver(SimpleNamespace(**{name: environ})) == User(id="ada")


def test_a_request_of_a_framework_without_either() -> None:
    """The record's own source is read where the request has none."""
    resolver = CarriedUser(identity(), trusted_proxies=["10.0.0.0/8"])
    assert resolver(object()) is None


def test_no_header_is_no_matter() -> None:
    """A request without the header counts nothing."""
    carried = identity()
    assert CarriedUser(carried, trusted_proxies=["unix"])(request_of(None, None)) is None
    assert carried.stats() == {}


@pytest.mark.parametrize("host", ["billing.internal", "BILLING.internal:8080", "[::1]:8080"])
def test_it_is_for_the_host_that_was_called(host: str) -> None:
    """The port does not matter, as proxies change it; the name does."""
    resolver = CarriedUser(identity(), trusted_proxies=["unix"])
    name = "::1" if host.startswith("[") else "billing.internal"
    assert resolver(request_of(None, signed(name), host)) == User(id="ada")
    assert resolver(request_of(None, signed("other.internal"), host)) is None


def test_a_host_of_its_own() -> None:
    """Names that were given stand over the request's, which whoever sends it has chosen."""
    hosts = ["billing.internal", "invoices.internal"]
    resolver = CarriedUser(identity(), trusted_proxies=["unix"], hosts=hosts)
    for host in hosts:
        assert resolver(request_of(None, signed(host), "proxy")) == User(id="ada")
    assert resolver(request_of(None, signed("other.internal"), "other.internal")) is None


def test_two_headers_are_refused() -> None:
    """Whoever adds a second one gains nobody."""
    request = request_of(None, signed())
    request.scope["headers"].append((HEADER.encode(), signed().encode()))
    assert CarriedUser(identity(), trusted_proxies=["unix"])(request) is None


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"carried": KEY}, "takes a CarriedIdentity, not str"),
        ({"carried": CarriedIdentity}, "takes a CarriedIdentity"),
        ({"trusted_proxies": []}, "trusted_proxies is empty"),
        ({"trusted_proxies": ["nonsense"]}, "trusted_proxies"),
        ({"hosts": "billing.internal"}, "must be a list of names"),
        ({"hosts": ["https://billing.internal"]}, "names alone"),
    ],
)
def test_errors_of_use_name_the_fix(options: dict[str, Any], fix: str) -> None:
    """What is missing or wrong is said where the resolver is built."""
    carried = options.pop("carried", None) or identity()
    with pytest.raises(ConfigurationError, match=fix):
        CarriedUser(carried, **{"trusted_proxies": ["unix"], **options})


def test_repr_shows_no_key() -> None:
    """Nor does the resolver's own."""
    assert "thirty-two" not in repr(CarriedUser(identity(), trusted_proxies=["unix"]))


def test_the_first_user_counts() -> None:
    """Resolvers are asked in their order, until one names somebody."""
    asked = []

    def second(request: object) -> dict[str, str]:
        asked.append(request)
        return {"id": "bob"}

    resolver = first_of(CarriedUser(identity(), trusted_proxies=["unix"]), second)
    assert resolver(request_of(None, signed())) == User(id="ada")
    assert asked == []
    assert resolver(request_of(None, None)) == {"id": "bob"}


def test_a_ready_resolver_among_them_is_followed() -> None:
    """Whom the framework holds by now is named, whoever was named before."""

    @follows(lambda source, _request: (source or {}).get("user", NOT_YET))
    def request_user(request: Any) -> object:
        return request.environ.get("user", NOT_YET)

    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for name in ("ada", "bob"):
            environ["user"] = {"id": name}
            seen.append(get_user())
        start_response("200 OK", [])
        return []

    carried = CarriedUser(identity(), trusted_proxies=["10.0.0.0/8"])
    resolver = first_of(carried, request_user)
    driver.wsgi_request(wsgi.UserContextMiddleware(app, resolver=resolver), driver.environ_of())
    assert [user and user.id for user in seen] == ["ada", "bob"]


def test_beside_one_that_asks_somebody_nobody_is_followed() -> None:
    """A line of a log would ask that one, too."""

    @follows(lambda *_: NOT_YET)
    def request_user(_request: object) -> object:
        return NOT_YET

    assert not hasattr(first_of(request_user, lambda _: None), "held")


def test_an_async_resolver_makes_it_async() -> None:
    """With an async one among them, the result is awaited, and each in its own way."""

    async def second(_request: object) -> dict[str, str]:
        return {"id": "bob"}

    resolver = first_of(lambda _: None, second)
    assert asyncio.run(resolver(None)) == {"id": "bob"}
    with usercontext.isolation_scope(resolver=resolver):
        assert usercontext.get_user() == User(id="bob")


def test_a_failure_ends_the_search() -> None:
    """Whoever fails names nobody, and nobody else is named instead."""

    def failing(_request: object) -> object:
        raise LookupError

    with pytest.raises(LookupError):
        first_of(failing, lambda _: {"id": "bob"})(None)


@pytest.mark.parametrize("wrong", [[], [None], [CarriedUser], ["resolver"]])
def test_first_of_takes_resolvers(wrong: list[Any]) -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match=r"first_of\(CarriedUser"):
        first_of(*wrong)
