"""Two services of ours on real servers, and a third one that must not see the user."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

import usercontext
from usercontext import ConfigurationError, User
from usercontext.asgi import UserContextMiddleware
from usercontext.carried import CarriedIdentity
from usercontext.resolvers import CarriedUser
from usercontext.services import HEADER
from usercontext.services.aiohttp import CarryingMiddleware
from usercontext.services.base import Carrier
from usercontext.services.httpx import CarryingTransport
from usercontext.services.requests import CarryingAdapter
from usercontext.testing import reset

if TYPE_CHECKING:
    from starlette.requests import Request

KEY = "a key of thirty-two bytes or more"
ADA = {"id": "ada", "email": "ada@shop.example"}
Get = Callable[[str], dict[str, Any]]


def identity() -> CarriedIdentity:
    """Make one as each of the two services has it."""
    return CarriedIdentity(keys=[KEY], audience="shop")


async def who(request: Request) -> JSONResponse:
    """Say who the user is here, and what came in the header."""
    user = usercontext.get_user()
    seen = request.headers.getlist(HEADER)
    return JSONResponse({"user": None if user is None else user.to_dict(), "header": seen})


async def redirect(request: Request) -> RedirectResponse:
    """Send the client elsewhere."""
    return RedirectResponse(request.query_params["to"])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an app on a free port, and return its origin."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(20)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Run the receiving service, and a stranger that would believe anything."""
    routes = [Route("/who", who), Route("/redirect", redirect)]
    with ExitStack() as stack:
        apps = [
            UserContextMiddleware(
                Starlette(routes=routes),
                resolver=CarriedUser(identity(), trusted_proxies=["127.0.0.1"]),
            )
            for _ in range(2)
        ]
        billing, stranger = [stack.enter_context(served(app)) for app in apps]
        yield billing, stranger


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    """Give this process, the first service, the keys."""
    usercontext.init(None, carried=identity())
    yield
    reset()


def by_httpx(billing: str) -> Get:
    """Call with httpx."""

    def get(url: str) -> dict[str, Any]:
        with httpx.Client(
            transport=CarryingTransport(hosts=[billing]), follow_redirects=True
        ) as client:
            return dict(client.get(url).json())

    return get


def by_async_httpx(billing: str) -> Get:
    """Call with httpx in a coroutine."""

    async def fetch(url: str) -> dict[str, Any]:
        transport = CarryingTransport(hosts=[billing])
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
            return dict((await client.get(url)).json())

    return lambda url: asyncio.run(fetch(url))


def by_requests(billing: str) -> Get:
    """Call with Requests."""

    def get(url: str) -> dict[str, Any]:
        with requests.Session() as session:
            session.mount("http://", CarryingAdapter(hosts=[billing]))
            return dict(session.get(url, timeout=10).json())

    return get


def by_aiohttp(billing: str) -> Get:
    """Call with aiohttp."""

    async def fetch(url: str) -> dict[str, Any]:
        middlewares = [CarryingMiddleware(hosts=[billing])]
        async with (
            aiohttp.ClientSession(middlewares=middlewares) as session,
            session.get(url) as response,
        ):
            return dict(await response.json())

    return lambda url: asyncio.run(fetch(url))


@pytest.fixture(params=[by_httpx, by_async_httpx, by_requests, by_aiohttp])
def get(hosts: tuple[str, str], request: pytest.FixtureRequest) -> Get:
    """Return what sends a request with each client."""
    made: Get = request.param(hosts[0])
    return made


def test_a_listed_host_knows_the_user(hosts: tuple[str, str], get: Get) -> None:
    """The id arrives, and nothing else of the user."""
    with usercontext.isolation_scope(user=ADA):
        assert get(f"{hosts[0]}/who")["user"] == {"id": "ada"}


def by_proxied_requests(proxy: str) -> Get:
    """Call with Requests by way of a proxy."""

    def get(url: str) -> dict[str, Any]:
        with requests.Session() as session:
            session.mount("http://", CarryingAdapter(hosts=[url.removesuffix("/who")]))
            return dict(session.get(url, timeout=10, proxies={"http": proxy}).json())

    return get


def by_proxied_aiohttp(proxy: str) -> Get:
    """Call with aiohttp by way of a proxy."""

    async def fetch(url: str) -> dict[str, Any]:
        middlewares = [CarryingMiddleware(hosts=[url.removesuffix("/who")])]
        async with (
            aiohttp.ClientSession(middlewares=middlewares) as session,
            session.get(url, proxy=proxy) as response,
        ):
            return dict(await response.json())

    return lambda url: asyncio.run(fetch(url))


@pytest.mark.parametrize("through", [by_proxied_requests, by_proxied_aiohttp])
def test_a_proxy_of_plain_http_is_not_told(
    hosts: tuple[str, str], through: Callable[[str], Get]
) -> None:
    """A host in between that is given the request in the clear does not see the user."""
    with usercontext.isolation_scope(user=ADA):
        assert through(hosts[1])(f"{hosts[0]}/who") == {"user": None, "header": []}
    carrier = Carrier(["http://10.0.0.7"], allow_plain_http=True)
    with usercontext.isolation_scope(user=ADA):
        assert carrier.header("http", "10.0.0.7", None, by_proxy=True)


def test_a_tunnel_may_be_told(hosts: tuple[str, str]) -> None:
    """What is encrypted to its end is for the listed host alone, whoever is in between."""
    assert hosts
    carrier = Carrier(["https://billing.internal"])
    with usercontext.isolation_scope(user=ADA):
        assert carrier.header("https", "billing.internal", None, by_proxy=True)


def test_nobody_is_not_said(hosts: tuple[str, str], get: Get) -> None:
    """Without a user, and outside of a request, there is no header."""
    assert get(f"{hosts[0]}/who") == {"user": None, "header": []}
    with usercontext.isolation_scope():
        assert get(f"{hosts[0]}/who") == {"user": None, "header": []}


def test_another_host_is_not_told(hosts: tuple[str, str], get: Get) -> None:
    """The same machine on another port is another host."""
    with usercontext.isolation_scope(user=ADA):
        assert get(f"{hosts[1]}/who") == {"user": None, "header": []}


def test_a_redirect_loses_the_header(hosts: tuple[str, str], get: Get) -> None:
    """A listed host that sends the client elsewhere does not send the user along."""
    billing, stranger = hosts
    with usercontext.isolation_scope(user=ADA):
        assert get(f"{billing}/redirect?to={stranger}/who") == {"user": None, "header": []}


def test_a_redirect_back_has_the_header(hosts: tuple[str, str], get: Get) -> None:
    """Each hop is judged by itself."""
    billing, stranger = hosts
    with usercontext.isolation_scope(user=ADA):
        found = get(f"{stranger}/redirect?to={billing}/who")
    assert found["user"] == {"id": "ada"}
    assert len(found["header"]) == 1


def test_a_header_of_the_apps_own_is_replaced(hosts: tuple[str, str]) -> None:
    """What somebody has put there by hand goes to nobody."""
    with httpx.Client(transport=CarryingTransport(hosts=[hosts[0]])) as client:
        for host in hosts:
            response = client.get(f"{host}/who", headers={HEADER: "by hand"})
            assert response.json() == {"user": None, "header": []}


def test_an_async_resolver_is_awaited(hosts: tuple[str, str]) -> None:
    """An async client asks a resolver that nobody has asked before."""

    async def find(_request: object) -> dict[str, str]:
        return ADA

    with usercontext.isolation_scope(resolver=find):
        assert by_async_httpx(hosts[0])(f"{hosts[0]}/who")["user"] == {"id": "ada"}


def test_a_stranger_has_no_resolver_asked(hosts: tuple[str, str]) -> None:
    """A request to another host costs no look-up of the user."""
    asked: list[object] = []

    async def find(request: object) -> dict[str, str]:
        asked.append(request)
        return ADA

    with usercontext.isolation_scope(resolver=find):
        assert by_async_httpx(hosts[0])(f"{hosts[1]}/who") == {"user": None, "header": []}
    assert asked == []


def test_a_process_without_keys_says_so(
    hosts: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go out without the header, and the fix is said once."""
    usercontext.init(None)
    with usercontext.isolation_scope(user=ADA):
        for _ in range(2):
            assert by_httpx(hosts[0])(f"{hosts[0]}/who")["header"] == []
    assert caplog.text.count("call usercontext.init(carried=") == 1


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        ("http", "billing.internal", 8443),
        ("https", "billing.internal", None),
        ("https", "billing.internal", 8444),
        ("https", "x.billing.internal", 8443),
        ("https", "billing.internal.evil.example", 8443),
        ("wss", "billing.internal", 8443),
    ],
)
def test_scheme_host_and_port_are_exact(scheme: str, host: str, port: int | None) -> None:
    """Anything near a listed origin is another one."""
    carrier = Carrier(["https://billing.internal:8443"])
    with usercontext.isolation_scope(user=ADA):
        assert carrier.header("https", "Billing.Internal.", 8443)
        assert carrier.header(scheme, host, port) is None


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ("https://billing.internal", "must be a list of origins"),
        ([], "hosts is empty"),
        ([7], "must hold texts"),
        (["https://billing.internal/path"], "scheme, host and port alone"),
        (["https://*.internal"], "no wildcards"),
        (["https://user:pw@billing.internal"], "is not an origin"),
        (["ftp://billing.internal"], "is not an origin"),
        (["https://billing.internal:port"], "is not an origin"),
        (["http://billing.internal"], "allow_plain_http=True"),
    ],
)
def test_errors_of_use_name_the_fix(wrong: Any, fix: str) -> None:
    """A list that tells too many hosts is refused where the client is built."""
    with pytest.raises(ConfigurationError, match=fix):
        CarryingTransport(hosts=wrong)


def test_plain_http_is_for_this_machine_unless_asked_for() -> None:
    """Loopback addresses may be told over http; another host is told if the app says so."""
    Carrier(["http://localhost:8000", "http://127.0.0.7", "http://[::1]:8000"])
    carrier = Carrier(["http://billing.internal"], allow_plain_http=True)
    with usercontext.isolation_scope(user=ADA):
        assert carrier.header("http", "billing.internal", None)


def test_scrub_rules_come_first() -> None:
    """What the rules take away is not carried either."""
    carried = CarriedIdentity(keys=[KEY], audience="shop", fields=("id", "email", "ip_address"))
    usercontext.init(None, carried=carried, scrub=["$user.email"], never_store_ip=True)
    with usercontext.isolation_scope(user=User(**ADA, ip_address="203.0.113.7")):
        text = Carrier(["https://a.internal"]).header("https", "a.internal", None)
    assert carried.read(text, ("host", "a.internal")) == User(id="ada")


@pytest.mark.parametrize(
    "host",
    [
        "https://ada:pa55word@shop.example",
        "https://ada:pa55word/rest@shop.example",
        "https://shop.example/?token=pa55word",
    ],
)
def test_an_error_shows_no_password(host: str) -> None:
    """What is wrong with a host is said without a password or a token that stands in it."""
    with pytest.raises(ConfigurationError, match=r"shop\.example") as caught:
        Carrier(hosts=[host])
    assert "pa55word" not in str(caught.value)
