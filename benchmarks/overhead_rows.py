"""The rows of `overhead.py`: what is put around a trivial application, and what the app then does.

A row imports what it measures only when it is built, in a process of its own, so a peer that is
not installed is one row that says so, and no peer's patches reach another row.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overhead_clients import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from overhead_clients import Client

__all__ = ["ROWS", "Row", "asgi_app", "environ", "http_scope", "wsgi_app"]

HEADERS = [
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"referer", b"https://shop.example/catalogue?page=2"),
    (b"connection", b"keep-alive"),
    (b"cookie", b"session=2f6c1d0e; theme=dark"),
    (b"cache-control", b"no-cache"),
    (b"x-request-id", b"0d9e8f7a-1b2c-4d3e-8f90-a1b2c3d4e5f6"),
    (b"x-forwarded-for", b"203.0.113.7, 10.0.0.5"),
    (b"x-user-id", b"42"),
]
_ENVIRON_HEADERS = {
    "HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in HEADERS
}


def http_scope() -> dict[str, Any]:
    """Build the scope of one request, as a server does, afresh each time."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("10.0.0.1", 8000),
        "client": ("10.0.0.2", 51234),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/orders/17",
        "raw_path": b"/orders/17",
        "query_string": b"page=2&sort=date",
        "headers": HEADERS.copy(),
        "state": {},
    }


def environ() -> dict[str, Any]:
    """Build the environ of one request, as a server does, afresh each time."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/orders/17",
        "QUERY_STRING": "page=2&sort=date",
        "SERVER_NAME": "10.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "10.0.0.2",
        "REMOTE_PORT": "51234",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **_ENVIRON_HEADERS,
    }


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
}
_BODY = {"type": "http.response.body", "body": b"ok"}


def asgi_app(
    act: Callable[[], object] | None = None, park: Callable[[], Awaitable[object]] | None = None
) -> Any:
    """Build the application of every ASGI row: a response start and one final body.

    `act` is called before the response, `park` awaited: that is how a request is held in flight.
    """

    async def plain(_scope: Any, _receive: Any, send: Any) -> None:
        await send(_START)
        await send(_BODY)

    async def acting(_scope: Any, _receive: Any, send: Any) -> None:
        if act is not None:
            act()
        if park is not None:
            await park()
        await send(_START)
        await send(_BODY)

    return plain if act is None and park is None else acting


def wsgi_app(act: Callable[[], object] | None = None) -> Any:
    """Build the application of every WSGI row: a list body of one string."""

    def plain(_environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    def acting(_environ: Any, start_response: Any) -> Iterable[bytes]:
        act()  # type: ignore[misc]
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    return plain if act is None else acting


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `build` returns the wrapper, and what the app does inside it or None. `limit` gives the
    target from the instructions of other rows, as the text shown and the number. `over` names
    the row that a reporting client's is compared with: the difference is what it adds.
    """

    name: str
    what: str
    build: Callable[[], tuple[Callable[[Any], Any], Callable[[], object] | None]]
    needs: tuple[str, ...] = ()
    limit: Callable[[dict[str, float]], tuple[str, float]] | None = None
    peer: str = ""
    over: str = ""

    @property
    def interface(self) -> str:
        """Return "asgi" or "wsgi"."""
        return self.name.partition(".")[0]


# --- floors: the least that anything of the kind can cost -------------------------------------

_variable: ContextVar[Any] = ContextVar("floor", default=None)


class _Record:
    __slots__ = ("source", "user")

    def __init__(self, source: Any) -> None:
        self.source = source
        self.user = None


class _PassThrough:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class _Floor2:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = _variable.set(_Record(scope))
        try:
            await self.app(scope, receive, send)
        finally:
            _variable.reset(token)


class _Firewalled:
    """The server's two callables, the variable at None where a server could copy the context."""

    __slots__ = ("_receive", "_send")

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        token = _variable.set(None)
        try:
            return await self._receive()
        finally:
            _variable.reset(token)

    def send(self, message: Any) -> Any:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            return self._finish(message)
        return self._send(message)

    async def _finish(self, message: Any) -> None:
        token = _variable.set(None)
        try:
            await self._send(message)
        finally:
            _variable.reset(token)


class _FirewallFloor:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        server = _Firewalled(receive, send)
        token = _variable.set(_Record(scope))
        try:
            await self.app(scope, server.receive, server.send)
        finally:
            _variable.reset(token)


class _FirewallClosuresFloor:
    """The same, written as most people would first: three functions made for every request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded_receive() -> Any:
            token = _variable.set(None)
            try:
                return await receive()
            finally:
                _variable.reset(token)

        async def finish(message: Any) -> None:
            token = _variable.set(None)
            try:
                await send(message)
            finally:
                _variable.reset(token)

        def guarded_send(message: Any) -> Any:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                return finish(message)
            return send(message)

        token = _variable.set(_Record(scope))
        try:
            await self.app(scope, guarded_receive, guarded_send)
        finally:
            _variable.reset(token)


class _WsgiFloor2:
    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        token = _variable.set(_Record(environ))
        try:
            return self.app(environ, start_response)
        finally:
            _variable.reset(token)


# --- ours -------------------------------------------------------------------------------------

_FIELDS = {"id": "42", "username": "ada", "email": "ada@shop.example"}
_PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"]
_WALK = {"include_ip": True, "trusted_proxies": _PRIVATE}


def _header_resolver(request: Any) -> Any:
    return {"id": request.headers["x-user-id"]}


def _ours(interface: str, **options: Any) -> Callable[[Any], Any]:
    if interface == "asgi":
        from usercontext.asgi import UserContextMiddleware as Asgi

        return lambda app: Asgi(app, **options)
    from usercontext.wsgi import UserContextMiddleware as Wsgi

    return lambda app: Wsgi(app, **options)


def _unread(interface: str) -> Any:
    return lambda: (_ours(interface), None)


def _with_resolver(interface: str) -> Any:
    return lambda: (_ours(interface, resolver=_header_resolver), None)


def _set_ready(interface: str) -> Any:
    def build() -> Any:
        from usercontext import User, set_user

        ada = User(**_FIELDS)
        return _ours(interface), lambda: set_user(ada)

    return build


def _set_dict(interface: str) -> Any:
    def build() -> Any:
        from usercontext import set_user

        return _ours(interface), lambda: set_user(_FIELDS)

    return build


def _set_dict_with_address(interface: str) -> Any:
    def build() -> Any:
        from usercontext import RequestData, set_user

        ours = _ours(interface, request_data=RequestData(include_ip=True))
        return ours, lambda: set_user({"id": "42"})

    return build


def _read(interface: str, **request_data: Any) -> Any:
    def build() -> Any:
        from usercontext import RequestData, get_user

        ours = _ours(interface, resolver=_header_resolver, request_data=RequestData(**request_data))

        def read() -> None:
            user = get_user()
            if user is None or user.id != "42":
                raise AssertionError(f"the row reads {user!r}")
            expected = "203.0.113.7" if "trusted_proxies" in request_data else "10.0.0.2"
            if request_data and user.ip_address != expected:
                raise AssertionError(f"the row finds {user.ip_address!r}")

        return ours, read

    return build


# --- peers ------------------------------------------------------------------------------------


def _authentication() -> Any:
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware.authentication import AuthenticationMiddleware

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            return credentials, SimpleUser(conn.headers["x-user-id"])

    credentials = AuthCredentials(["authenticated"])
    return lambda app: AuthenticationMiddleware(app, backend=Backend()), None


def _starlette_context() -> Any:
    from starlette_context.middleware import RawContextMiddleware

    return RawContextMiddleware, None


def _proxy_headers() -> Any:
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return lambda app: ProxyHeadersMiddleware(app, trusted_hosts=["10.0.0.0/8"]), None


def _correlation_id() -> Any:
    from asgi_correlation_id import CorrelationIdMiddleware

    return CorrelationIdMiddleware, None


def _rollbar() -> Any:
    import rollbar
    from rollbar.contrib.starlette import ReporterMiddleware

    rollbar.init("0" * 32, environment="benchmark", handler="blocking")
    return ReporterMiddleware, None


def _bugsnag() -> Any:
    import bugsnag
    from bugsnag.asgi import BugsnagMiddleware

    bugsnag.configure(api_key="0" * 32, auto_capture_sessions=False, asynchronous=False)
    return BugsnagMiddleware, None


def _elastic_apm() -> Any:
    from elasticapm.contrib.starlette import ElasticAPM, make_apm_client
    from starlette.applications import Starlette

    client = make_apm_client({"SERVICE_NAME": "benchmark", "DISABLE_SEND": True})
    routed = Starlette()  # Elastic looks for the route in the application of the scope

    def wrap(app: Any) -> Any:
        traced = ElasticAPM(app, client=client)

        async def inside(scope: Any, receive: Any, send: Any) -> None:
            scope["app"] = routed
            await traced(scope, receive, send)

        return inside

    return wrap, None


_SENTRY_DSN = "http://0123456789abcdef0123456789abcdef@127.0.0.1:9/1"


def _sentry_asgi() -> Any:
    import sentry_sdk
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    sentry_sdk.init(_SENTRY_DSN, auto_session_tracking=True)
    return SentryAsgiMiddleware, lambda: sentry_sdk.set_user(dict(_FIELDS))


def _sentry_wsgi() -> Any:
    import sentry_sdk
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

    sentry_sdk.init(_SENTRY_DSN, auto_session_tracking=True)
    return SentryWsgiMiddleware, lambda: sentry_sdk.set_user(dict(_FIELDS))


def _base_http() -> Any:
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return lambda app: BaseHTTPMiddleware(app, dispatch=dispatch), None


def _opentelemetry_api() -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware, None


def _opentelemetry_sdk() -> Any:
    from opentelemetry import trace
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    return OpenTelemetryMiddleware, None


def _proxy_fix() -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    return lambda app: ProxyFix(app, x_for=2), None


def _flask_context() -> Any:
    from flask import Flask

    flask_app = Flask("benchmark")

    def wrap(app: Any) -> Any:
        def inside(environ: Any, start_response: Any) -> Any:
            with flask_app.request_context(environ):
                return app(environ, start_response)

        return inside

    return wrap, None


def _nothing() -> Any:
    return lambda app: app, None


# --- reporting clients ------------------------------------------------------------------------


def _resolving(**options: Any) -> Callable[[Any], Any]:
    from usercontext import User

    ada = User(**_FIELDS)
    return _ours("asgi", resolver=lambda _: ada, **options)


def _with_client(client: Client) -> Any:
    return lambda: (_resolving(clients=[client.make()]), None)


def _traced(client: Client, *, ours: bool) -> Any:
    def build() -> Any:
        wrap = _resolving(clients=[client.make()] if ours else [])
        opened = client.trace() if client.trace is not None else None

        def traced(app: Any) -> Any:
            wrapped = wrap(app)

            async def serve(scope: Any, receive: Any, send: Any) -> None:
                with opened():  # type: ignore[misc]
                    await wrapped(scope, receive, send)

            return serve

        return traced, None

    return build


def _client_rows() -> Iterator[Row]:
    for client in CLIENTS:
        package, silent = client.distribution, "asgi.unread-resolver"
        name = f"asgi.client-{client.name}"
        build = _with_client(client)
        yield Row(name, "the client on, nothing reported", build, (silent,), None, package, silent)
        if client.trace is None:
            continue
        alone = f"asgi.trace-{client.name}"
        yield Row(alone, "a trace, without the client", _traced(client, ours=False), peer=package)
        name = f"asgi.client-{client.name}-traced"
        build = _traced(client, ours=True)
        yield Row(name, "the client on, in a trace", build, (alone,), None, package, alone)


# --- the table --------------------------------------------------------------------------------


def _times(factor: float, other: str) -> Any:
    return lambda counts: (f"<= {factor} x {other}", factor * counts[other])


def _plus(extra: int, other: str) -> Any:
    return lambda counts: (f"<= {other} + {extra:,}", counts[other] + extra)


ROWS: tuple[Row, ...] = (
    Row("asgi.bare", "the trivial app itself; every other row is over this", _nothing),
    Row("asgi.pass-through", "a class that only awaits the app", lambda: (_PassThrough, None)),
    Row("asgi.floor2", "ContextVar set and reset, one slots object", lambda: (_Floor2, None)),
    Row(
        "asgi.floor",
        "the same with the firewall around receive and last send",
        lambda: (_FirewallFloor, None),
    ),
    Row(
        "asgi.floor-closures",
        "the same written with three closures a request",
        lambda: (_FirewallClosuresFloor, None),
    ),
    Row(
        "asgi.unread",
        "usercontext, the user neither set nor read",
        _unread("asgi"),
        needs=("asgi.floor",),
        limit=_times(1.25, "asgi.floor"),
    ),
    Row(
        "asgi.unread-resolver",
        "the same with a resolver that nothing asks",
        _with_resolver("asgi"),
        needs=("asgi.floor",),
        limit=_times(1.25, "asgi.floor"),
    ),
    Row(
        "asgi.set-ready",
        "usercontext, the app sets a ready User",
        _set_ready("asgi"),
        needs=("asgi.unread",),
        limit=_plus(2_500, "asgi.unread"),
    ),
    Row(
        "asgi.set-dict",
        "usercontext, the app sets a dict of three fields",
        _set_dict("asgi"),
        needs=("asgi.unread",),
        limit=_plus(16_000, "asgi.unread"),
    ),
    Row(
        "asgi.read",
        "usercontext, read through a resolver of one header",
        _read("asgi"),
        needs=("asgi.unread",),
        limit=_plus(45_000, "asgi.unread"),
    ),
    Row(
        "asgi.set-dict-address",
        "the app sets a dict of an id, `include_ip` on",
        _set_dict_with_address("asgi"),
        needs=("asgi.unread",),
        limit=_plus(16_000, "asgi.unread"),
    ),
    Row(
        "asgi.read-address",
        "read through a resolver of one header, `include_ip` on",
        _read("asgi", include_ip=True),
        needs=("asgi.unread",),
        limit=_plus(45_000, "asgi.unread"),
    ),
    Row(
        "asgi.read-walk",
        "the same with the trusted-proxy walk",
        _read("asgi", **_WALK),
        needs=("asgi.unread",),
        limit=_plus(56_000, "asgi.unread"),
    ),
    Row(
        "asgi.authentication",
        "AuthenticationMiddleware, one header read",
        _authentication,
        peer="starlette",
    ),
    Row("asgi.starlette-context", "no plugin", _starlette_context, peer="starlette-context"),
    Row("asgi.proxy-headers", "ProxyHeadersMiddleware, 2 hops", _proxy_headers, peer="uvicorn"),
    Row("asgi.correlation-id", "", _correlation_id, peer="asgi-correlation-id"),
    Row("asgi.rollbar", "nothing reported", _rollbar, peer="rollbar"),
    Row("asgi.bugsnag", "nothing reported", _bugsnag, peer="bugsnag"),
    Row("asgi.elastic-apm", "nothing sent", _elastic_apm, peer="elastic-apm"),
    Row(
        "asgi.sentry-sdk",
        "user set, nothing reported",
        _sentry_asgi,
        needs=("asgi.unread",),
        peer="sentry-sdk",
    ),
    Row("asgi.base-http", "BaseHTTPMiddleware, pass-through", _base_http, peer="starlette"),
    Row(
        "asgi.opentelemetry-api",
        "API only",
        _opentelemetry_api,
        peer="opentelemetry-instrumentation-asgi",
    ),
    Row(
        "asgi.opentelemetry-sdk",
        "SDK, no exporter",
        _opentelemetry_sdk,
        peer="opentelemetry-sdk",
    ),
    *_client_rows(),
    Row("wsgi.bare", "the trivial app itself; every other row is over this", _nothing),
    Row("wsgi.floor2", "ContextVar set and reset, one slots object", lambda: (_WsgiFloor2, None)),
    Row(
        "wsgi.unread",
        "usercontext, list body, the user neither set nor read",
        _unread("wsgi"),
        needs=("wsgi.floor2",),
        limit=_times(1.3, "wsgi.floor2"),
    ),
    Row(
        "wsgi.set-ready",
        "usercontext, the app sets a ready User",
        _set_ready("wsgi"),
        needs=("wsgi.unread",),
        limit=_plus(2_500, "wsgi.unread"),
    ),
    Row(
        "wsgi.set-dict",
        "usercontext, the app sets a dict of three fields",
        _set_dict("wsgi"),
        needs=("wsgi.unread",),
        limit=_plus(16_000, "wsgi.unread"),
    ),
    Row(
        "wsgi.set-dict-address",
        "the app sets a dict of an id, `include_ip` on",
        _set_dict_with_address("wsgi"),
        needs=("wsgi.unread",),
        limit=_plus(16_000, "wsgi.unread"),
    ),
    Row(
        "wsgi.read-address",
        "read through a resolver of one header, `include_ip` on",
        _read("wsgi", include_ip=True),
        needs=("wsgi.unread",),
        limit=_plus(60_000, "wsgi.unread"),
    ),
    Row(
        "wsgi.read-walk",
        "usercontext, resolver of one header and trusted-proxy walk",
        _read("wsgi", **_WALK),
        needs=("wsgi.unread",),
        limit=_plus(60_000, "wsgi.unread"),
    ),
    Row("wsgi.proxy-fix", "ProxyFix, 2 hops", _proxy_fix, peer="werkzeug"),
    Row("wsgi.flask-context", "Flask's request context alone", _flask_context, peer="flask"),
    Row(
        "wsgi.sentry-sdk",
        "user set, nothing reported",
        _sentry_wsgi,
        needs=("wsgi.unread",),
        peer="sentry-sdk",
    ),
)
