"""What works without any optional package, and what says which one it needs."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import usercontext
from usercontext import asgi, wsgi
from usercontext.exceptions import MissingDependencyError
from usercontext.sentry import read_reports

PACKAGES = ["starlette", "werkzeug", "httpx", "httpx2", "django", "asgiref", "flask", "gevent"]
# Of the modules for reporting clients that are not called like theirs.
LIBRARIES = {"scout": "scout_apm", "xray": "aws_xray_sdk"}


@pytest.fixture(autouse=True)
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every optional package impossible to import."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    for name in [*loaded, *PACKAGES]:
        monkeypatch.setitem(sys.modules, name, None)


def call_asgi(app: Any) -> None:
    """Send one request to an ASGI app."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        """Take what the app sends."""

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(app({**scope, "client": ("203.0.113.7", 1)}, receive, send))


def call_wsgi(app: Any) -> None:
    """Send one request to a WSGI app."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "203.0.113.7"}
    list(app(environ, lambda *_: None))


def test_asgi_needs_no_starlette() -> None:
    """An ASGI app that sets its user itself needs no package but ours."""
    seen = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        usercontext.set_user({"id": 1})
        seen.append(usercontext.get_user())

    call_asgi(asgi.UserContextMiddleware(app))
    assert seen == [usercontext.User(id=1)]


def test_wsgi_needs_no_werkzeug() -> None:
    """A WSGI app that sets its user itself needs no package but ours."""
    seen = []

    def app(_environ: Any, _start_response: Any) -> list[bytes]:
        usercontext.set_user({"id": 1})
        seen.append(usercontext.get_user())
        return []

    call_wsgi(wsgi.UserContextMiddleware(app))
    assert seen == [usercontext.User(id=1)]


@pytest.mark.parametrize(
    ("module", "package", "extra"), [(asgi, "starlette", "asgi"), (wsgi, "werkzeug", "wsgi")]
)
def test_a_resolver_needs_a_request(module: Any, package: str, extra: str) -> None:
    """A resolver is called with a framework's request, so building the middleware says so."""
    with pytest.raises(MissingDependencyError, match=rf"usercontext\[{extra}\]") as caught:
        module.UserContextMiddleware(object, resolver=lambda request: request)
    assert (caught.value.package, caught.value.extra) == (package, extra)


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("bugsnag", "BugsnagClient", "bugsnag"),
        ("newrelic", "NewrelicClient", "newrelic"),
        ("ddtrace", "DdtraceClient", "ddtrace"),
        ("elasticapm", "ElasticapmClient", "elasticapm"),
        ("honeybadger", "HoneybadgerClient", "honeybadger"),
        ("loguru", "LoguruClient", "loguru"),
        ("opentelemetry", "OpenTelemetryClient", "opentelemetry"),
        ("posthog", "PosthogClient", "posthog"),
        ("rollbar", "RollbarClient", "rollbar"),
        ("scout", "ScoutClient", "scout"),
        ("sentry_sdk", "SentrySdkClient", "sentry-sdk"),
        ("structlog", "StructlogClient", "structlog"),
        ("xray", "XRayClient", "xray"),
    ],
)
def test_a_reporting_client_needs_its_library(
    module: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module can be imported without; building the client names the extra."""
    library = LIBRARIES.get(module, module)
    for loaded in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, library, None)
    client = import_module(f"usercontext.clients.{module}")
    with pytest.raises(MissingDependencyError, match=rf"usercontext\[{extra}\]"):
        getattr(client, name)()


def test_reports_are_kept_without_httpx(tmp_path: Path) -> None:
    """The embedded default needs no package but ours."""
    path = tmp_path / "reports.db"
    usercontext.init(f"sqlite:///{path}")
    with usercontext.isolation_scope(user={"id": 1}):
        usercontext.capture_message("hello")
    assert usercontext.flush()
    assert [report["user"]["id"] for report in read_reports(path)] == ["1"]


def test_sending_needs_httpx() -> None:
    """Reports to a server go over httpx, so `init()` says so."""
    with pytest.raises(MissingDependencyError, match=r"usercontext\[sentry\]"):
        usercontext.init("https://key@sentry.example/1")


FRAMEWORKS = sorted(
    path.stem
    for path in (Path(usercontext.__file__).parent / "frameworks").iterdir()
    if not path.name.startswith("_") and path.stem not in ("base", "channels")
)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_modules_of_frameworks_name_their_extra(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A framework's module says what to install where the framework is not."""
    module = f"usercontext.frameworks.{framework}"
    for name in list(sys.modules):
        if name.startswith((f"{framework}.", "usercontext.frameworks.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(MissingDependencyError, match=f"{module} needs {framework}") as caught:
        import_module(module)
    assert caught.value.extra == framework
    assert f"usercontext[{framework}]" in str(caught.value)
