"""The peer, where an adapter or a server has put something else in its place."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.requests_of import environ_of, scope_of
from usercontext import RequestData, asgi, get_client_address, wsgi
from usercontext.address.client import ProxyTrust

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "203.0.113.9"
FORWARDED = f"6.6.6.6, {CLIENT}"
HEADERS = {"host": "shop.example", "x-forwarded-for": FORWARDED, "x-forwarded-proto": "https"}
REQUEST: dict[str, Any] = {
    "headers": HEADERS,
    "multiValueHeaders": {name: [value] for name, value in HEADERS.items()},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "body": "",
    "isBase64Encoded": False,
}
GATEWAY = {"identity": {"sourceIp": CLIENT}, "stage": "prod", "requestId": "1"}
HTTP = {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": CLIENT, "userAgent": "c"}
V2 = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/",
    "rawQueryString": "",
    "requestContext": {"http": HTTP, "stage": "$default", "requestId": "1"},
    **{key: REQUEST[key] for key in ("headers", "body", "isBase64Encoded")},
}
BALANCER = {key: REQUEST[key] for key in ("headers", "body", "isBase64Encoded")}
EVENTS: dict[str, dict[str, Any]] = {
    "REST": {
        "resource": "/",
        "httpMethod": "GET",
        "path": "/",
        "requestContext": GATEWAY,
        **REQUEST,
    },
    "HTTP, payload 1": {
        "version": "1.0",
        "resource": "/",
        "httpMethod": "GET",
        "path": "/",
        "requestContext": GATEWAY,
        **REQUEST,
    },
    "HTTP, payload 2": V2,
    "Function URL": {
        **V2,
        "requestContext": {**V2["requestContext"], "domainName": "x.lambda-url"},
    },  # type: ignore[dict-item]
}
ELB = {
    "httpMethod": "GET",
    "path": "/",
    "queryStringParameters": {},
    "requestContext": {"elb": {"targetGroupArn": "arn"}},
    **BALANCER,
}
EDGE = {
    "Records": [
        {
            "cf": {
                "config": {"distributionDomainName": "d.example"},
                "request": {
                    "clientIp": CLIENT,
                    "method": "GET",
                    "uri": "/",
                    "querystring": "",
                    "headers": {
                        "host": [{"key": "Host", "value": "shop.example"}],
                        "x-forwarded-for": [{"key": "X-Forwarded-For", "value": FORWARDED}],
                    },
                },
            }
        }
    ]
}


class Context:
    """What Lambda tells a function of its invocation."""

    function_name = "shop"
    invoked_function_arn = "arn"
    aws_request_id = "1"

    def get_remaining_time_in_millis(self) -> int:
        """Return the rest of the time."""
        return 3000


@contextmanager
def own_loop() -> Iterator[None]:
    """Give Mangum a loop that is closed: one that it makes itself is not."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def found_by(adapter: str, event: dict[str, Any], options: RequestData) -> Any:
    """Return how an app behind an adapter of AWS Lambda finds the client's address."""
    seen: list[Any] = []

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_client_address())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(get_client_address())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    if adapter == "mangum":
        module = pytest.importorskip("mangum")
        app = asgi.UserContextMiddleware(asgi_app, request_data=options)
        with own_loop():
            module.Mangum(app, lifespan="off")(event, Context())
    elif adapter == "apig-wsgi":
        module = pytest.importorskip("apig_wsgi")
        app = wsgi.UserContextMiddleware(wsgi_app, request_data=options)
        module.make_lambda_handler(app)(event, Context())
    else:
        module = pytest.importorskip("serverless_wsgi")
        app = wsgi.UserContextMiddleware(wsgi_app, request_data=options)
        module.handle_request(app, event, Context())
    return seen[-1]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged on our logger; adapters log each request on theirs."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


ADAPTERS = ("mangum", "apig-wsgi", "serverless-wsgi")
adapters = pytest.mark.parametrize("adapter", ADAPTERS)


@adapters
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_address_of_a_gateway(
    adapter: str, event: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Behind API Gateway and a Function URL it is the event's own, and nobody is blamed."""
    for options in ({}, {"trusted_proxies": ["10.0.0.0/8"]}, {"trusted_proxies": ["loopback"]}):
        found = found_by(adapter, event, RequestData(include_ip=True, **options))  # type: ignore[arg-type]
        assert found.address == CLIENT
    assert said(caplog) == []


@adapters
def test_address_of_a_balancer(adapter: str, caplog: pytest.LogCaptureFixture) -> None:
    """Behind a load balancer, whose own nobody knows, it stands in the header."""
    assert found_by(adapter, ELB, RequestData(include_ip=True)).address is None
    for options in ({"trusted_hops": 1, "trusted_proxies": ["private"]}, TRUST):
        assert found_by(adapter, ELB, RequestData(include_ip=True, **options)).address == CLIENT  # type: ignore[arg-type]
    assert said(caplog) == []


TRUST: dict[str, Any] = {"trusted_proxies": ["10.0.0.0/8"]}


def test_address_at_the_edge() -> None:
    """Lambda@Edge tells who is connected to CloudFront."""
    assert found_by("mangum", EDGE, RequestData(include_ip=True)).address == CLIENT


@pytest.mark.parametrize("key", ["awsgi.event", "lambda.event"])
def test_address_of_other_adapters(key: str) -> None:
    """aws-wsgi and Zappa make the peer of the header, and keep the event."""
    environ = environ_of("6.6.6.6", [("X-Forwarded-For", FORWARDED)], **{key: EVENTS["REST"]})
    assert ProxyTrust().locate(environ).address == CLIENT


@pytest.mark.parametrize("mark", ["SERVER_SOFTWARE", "REMOTE_PORT"])
def test_a_server_is_no_adapter(mark: str) -> None:
    """Who tells its name or the peer's port has a connection, and names its other end."""
    environ = environ_of(CLIENT, **{mark: "1", "awsgi.event": {}})
    assert ProxyTrust().locate(environ).address == CLIENT


@pytest.mark.parametrize("event", [{}, {"requestContext": None}, {"Records": []}, {"Records": 1}])
def test_an_event_without_an_address(event: dict[str, Any]) -> None:
    """An event of another kind names nobody, whatever stands for the peer."""
    environ = environ_of("6.6.6.6", **{"awsgi.event": event})
    assert ProxyTrust().locate(environ).reason == "no-peer"


def test_zappa_without_its_event() -> None:
    """What Zappa makes of the header is nobody's address; counted in the header it is right."""
    environ = environ_of("6.6.6.6", [("X-Forwarded-For", FORWARDED)], SERVER_NAME="zappa")
    assert ProxyTrust(["10.0.0.0/8"]).locate(environ).address is None
    assert ProxyTrust(trusted_hops=1).locate(environ).address == CLIENT


def test_azure_functions() -> None:
    """Azure tells no peer; its front end ends the header with address and port."""
    marks = {"azure_functions.invocation_id": "1"}
    environ = environ_of(None, [("X-Forwarded-For", f"6.6.6.6, {CLIENT}:41234")], **marks)
    assert ProxyTrust().locate(environ).reason == "no-peer"
    assert ProxyTrust(trusted_hops=1).locate(environ).address == CLIENT


def test_hops_alone_are_sound_in_a_function(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody reaches a function of Lambda past its front end, so nothing is warned of."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")
    ProxyTrust(trusted_hops=1)
    assert said(caplog) == []


# --- servers --------------------------------------------------------------------------------------

TRUSTS = {"nothing": ProxyTrust(), "loopback": ProxyTrust(["loopback", "unix"])}
trusts = pytest.mark.parametrize("trust", TRUSTS.values(), ids=TRUSTS)


@trusts
@pytest.mark.parametrize("port", [0, 443])
def test_daphne_with_proxy_headers(
    trust: ProxyTrust, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer that daphne's option has made of the header's first entry is nobody, and said."""
    headers = [("X-Forwarded-For", FORWARDED)]
    headers += [("X-Forwarded-Port", str(port))] if port else []
    scope = scope_of(client=["6.6.6.6", port], headers=headers)
    assert trust.locate(scope).address is None
    assert "--proxy-headers" in caplog.text
    assert "uvicorn" not in caplog.text


def test_daphne_without_it() -> None:
    """Daphne's peers are lists, and those of its connections are believed as any other's."""
    headers = [("X-Forwarded-For", FORWARDED), ("X-Forwarded-Port", "443")]
    for peer, expected in (("127.0.0.1", CLIENT), ("198.51.100.7", "198.51.100.7")):
        scope = scope_of(client=[peer, 50123], headers=headers)
        assert TRUSTS["loopback"].locate(scope).address == expected
    assert TRUSTS["loopback"].locate(scope_of(client=["198.51.100.7", 5])).reason == (
        "untrusted-peer"
    )


@trusts
def test_pyvoy(trust: ProxyTrust, caplog: pytest.LogCaptureFixture) -> None:
    """Pyvoy makes the peer of the header over ASGI, and tells none over WSGI."""
    about = {"version": "3.0", "spec_version": "2.5"}
    scope = scope_of(client=("6.6.6.6", 0), headers=[("X-Forwarded-For", "6.6.6.6")], asgi=about)
    scope["extensions"] = {"http.response.trailers": {}}
    marks = {"wsgi.ext.http.send_trailers": None}
    environ = environ_of(None, [("X-Forwarded-For", "6.6.6.6")], **marks)
    assert [trust.locate(source).address for source in (scope, environ)] == [None, None]
    assert "pyvoy" in caplog.text
    assert "uvicorn" not in caplog.text


def test_a_server_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    """A peer with port 0 is of a header, and no server is blamed for another's deed."""
    scope = scope_of(client=("6.6.6.6", 0), headers=[("X-Forwarded-For", FORWARDED)])
    assert TRUSTS["loopback"].locate(scope).address is None
    assert "port 0" in caplog.text
    assert "uvicorn" not in caplog.text


def of_uvicorn(address: str, forwarded: str) -> dict[str, Any]:
    """Return a scope as uvicorn's ProxyHeaders leaves it."""
    about = {"version": "3.0", "spec_version": "2.3"}
    headers = [("X-Forwarded-For", forwarded)]
    return scope_of(client=(address, 0), headers=headers, asgi=about, state={})


@trusts
def test_uvicorn(trust: ProxyTrust, caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn makes of the header stands where, read from the right, the header says so."""
    assert trust.locate(of_uvicorn(CLIENT, FORWARDED)).address == CLIENT
    assert trust.locate(of_uvicorn("6.6.6.6", FORWARDED)).address is None
    assert "--no-proxy-headers" in caplog.text


def test_a2wsgi_on_a_server_that_tells_no_port() -> None:
    """The address that a2wsgi leaves out of the scope stands in the environ beside it."""
    a2wsgi = pytest.importorskip("a2wsgi")
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "client" not in scope
        seen.append(get_client_address())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    inner = asgi.UserContextMiddleware(app, request_data=RequestData(trusted_proxies=["10.0.0.1"]))
    for peer, expected in (("10.0.0.1", CLIENT), ("198.51.100.7", "198.51.100.7")):
        environ = environ_of(peer, [("X-Forwarded-For", FORWARDED)], SERVER_PROTOCOL="HTTP/1.1")
        environ["wsgi.input"] = None
        list(a2wsgi.ASGIMiddleware(inner)(environ, lambda *_: None))
        assert seen[-1].address == expected


def test_nginx_on_a_socket_before_uwsgi() -> None:
    """`unix:` is how nginx names a client on a unix socket to uWSGI."""
    environ = environ_of("unix:", [("X-Forwarded-For", FORWARDED)])
    assert ProxyTrust(["unix"]).locate(environ).address == CLIENT
    assert ProxyTrust().locate(environ).reason == "no-peer"


def test_a_socket_between_two_proxies() -> None:
    """`unix:` in the header is a proxy on the same host where both names say so."""
    headers = [("X-Forwarded-For", f"6.6.6.6, {CLIENT}, unix:")]
    expected = {("loopback", "unix"): CLIENT, ("loopback",): None, ("unix",): None}
    for trusted, address in expected.items():
        peer = "127.0.0.1" if "loopback" in trusted else None
        assert ProxyTrust(trusted).locate(scope_of(peer, headers)).address == address
    only = scope_of("127.0.0.1", [("X-Forwarded-For", "unix:")])
    assert ProxyTrust(["loopback", "unix"]).locate(only).reason == "malformed"


FOLDING: dict[str, dict[str, Any]] = {
    "uWSGI": {"uwsgi.version": b"2.0.30"},
    "pyvoy": {"wsgi.ext.http.send_trailers": None},
    "cheroot": {"SERVER_SOFTWARE": "Cheroot/11.1.2"},
    "hypercorn": {"wsgi.version": (1, 0)},
}


@pytest.mark.parametrize("name", FOLDING)
def test_servers_that_take_one_header_for_another(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that tell no name of theirs in the usual place are known all the same."""
    if name == "hypercorn":
        pytest.importorskip("hypercorn.app_wrappers")
    headers = [("X-Forwarded-For", FORWARDED)]
    ProxyTrust(["loopback"]).locate(environ_of("127.0.0.1", headers, **FOLDING[name]))
    assert "underscores" in caplog.text
    assert name.lower() in caplog.text.lower()


def test_waitress_removes_the_header(caplog: pytest.LogCaptureFixture) -> None:
    """Where it serves and the header never comes, its option is named."""
    trust = ProxyTrust(["loopback"])
    environ = environ_of("127.0.0.1", SERVER_SOFTWARE="waitress")
    assert trust.locate(environ).address == "127.0.0.1"
    assert "clear_untrusted_proxy_headers=False" in caplog.text


def test_waitress_that_hands_it_on(caplog: pytest.LogCaptureFixture) -> None:
    """A header that has come once is not removed."""
    trust = ProxyTrust(["loopback"])
    headers = [("X-Forwarded-For", CLIENT)]
    for lines in (headers, []):
        trust.locate(environ_of("127.0.0.1", lines, SERVER_SOFTWARE="waitress"))
    assert said(caplog) == []


@pytest.mark.parametrize("build", [scope_of, environ_of])
def test_a_proxy_that_writes_no_header(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its absence from the first requests is said: such a proxy passes on what clients write."""
    trust = ProxyTrust(["loopback"])
    for _ in range(9):
        trust.locate(build("127.0.0.1"))
    assert said(caplog) == []
    for _ in range(3):
        trust.locate(build("127.0.0.1"))
    (record,) = caplog.records
    assert "had no x-forwarded-for" in record.getMessage()


# --- as the request began -------------------------------------------------------------------------


def serve_asgi(app: Any, scope: dict[str, Any], **options: Any) -> None:
    """Serve one request."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        app(scope)

    options = {"include_ip": True, "trusted_proxies": ["10.0.0.1"], **options}
    wrapped = asgi.UserContextMiddleware(call, request_data=RequestData(**options))
    asyncio.run(wrapped(scope, None, None))  # type: ignore[arg-type]


def serve_wsgi(app: Any, environ: dict[str, Any]) -> None:
    """Serve one request."""

    def call(environ: Any, start_response: Any) -> list[bytes]:
        app(environ)
        return []

    options = RequestData(include_ip=True, trusted_proxies=["10.0.0.1"])
    list(wsgi.UserContextMiddleware(call, request_data=options)(environ, None))  # type: ignore[arg-type]


def test_a_list_of_headers_that_grows(caplog: pytest.LogCaptureFixture) -> None:
    """What is appended to a scope's headers is not read, whoever asks, and said once."""
    seen = []

    def app(scope: dict[str, Any]) -> None:
        scope["headers"].append((b"x-forwarded-for", b"6.6.6.6"))
        seen.append(get_client_address())

    for _ in range(2):
        serve_asgi(app, scope_of("10.0.0.1", [("X-Forwarded-For", CLIENT)]))
    assert [found.address for found in seen if found] == [CLIENT, CLIENT]
    (record,) = caplog.records
    assert "headers were added" in record.getMessage()


def test_a_scope_whose_client_is_replaced() -> None:
    """A middleware of the app's own that believes any header changes nothing here."""

    def app(scope: dict[str, Any]) -> None:
        scope["client"] = ("6.6.6.6", 0)
        scope["headers"] = [(b"x-forwarded-for", b"6.6.6.6")]
        found = get_client_address()
        assert found is not None
        assert found.address == CLIENT

    serve_asgi(app, scope_of("10.0.0.1", [("X-Forwarded-For", CLIENT)]))


def test_an_environ_that_is_rewritten() -> None:
    """As widespread middlewares of Django do it, with the header's first entry."""

    def app(environ: dict[str, Any]) -> None:
        environ["REMOTE_ADDR"] = "6.6.6.6"
        environ["HTTP_X_FORWARDED_FOR"] = "6.6.6.6"
        found = get_client_address()
        assert found is not None
        assert found.address == CLIENT

    serve_wsgi(app, environ_of("10.0.0.1", [("X-Forwarded-For", CLIENT)], SERVER_SOFTWARE="x"))


def test_without_the_address_nothing_is_kept() -> None:
    """A request whose address nobody asked for does not pay for it."""
    scope = scope_of("10.0.0.1", [("X-Forwarded-For", CLIENT)])
    serve_asgi(lambda _: None, scope, include_ip=False)
    assert [key for key in scope if key.startswith("usercontext")] == ["usercontext.scope"]
