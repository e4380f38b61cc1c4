"""A plugin of pytest that serves the apps of a framework's own tests through our middleware.

It is loaded into the environment of a framework, where our other tests are absent, and is told by
the environment's variables:

- `SUITE_SERVED`: how apps are served. "bare": without us; "plain": with a resolver and a report
  file; "full": with everything that a request can be asked for, its user resolved before the app.
- `SUITE_CLASSES`: the classes whose apps are served, keys of `_SERVED`.
- `SUITE_OUTCOMES`: the file to write, of each test's outcome, of the requests that passed through
  us, and of the errors that were reported.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OUTCOMES = Path(os.environ["SUITE_OUTCOMES"])
SERVED = os.environ["SUITE_SERVED"]
REPORTS = OUTCOMES.with_suffix(".db")

outcomes: dict[str, str] = {}
requests: Counter[str] = Counter()


def pytest_configure() -> None:
    """Put our middleware around whatever the framework's classes serve."""
    if SERVED == "bare":
        return
    _initialise()
    for name in os.environ["SUITE_CLASSES"].split():
        module, _, owner = name.rpartition(".")
        _SERVED[name](getattr(importlib.import_module(module), owner))


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst that was said of a test's parts."""
    worst = outcomes.get(report.nodeid, "passed")
    said = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
    outcomes[report.nodeid] = worst if said == "passed" else said


def pytest_collectreport(report: Any) -> None:
    """Keep what could not be collected."""
    if report.failed:
        outcomes[report.nodeid] = "not collected"


def pytest_sessionfinish() -> None:
    """Write what was seen."""
    reports = _count_reports() if SERVED != "bare" else 0
    seen = {"outcomes": outcomes, "requests": requests, "reports": reports}
    OUTCOMES.write_text(json.dumps(seen))


def _count_reports() -> int:
    import usercontext
    from usercontext.sentry import read_reports

    usercontext.close(timeout=30)
    return sum(1 for _ in read_reports(REPORTS)) if REPORTS.exists() else 0


def _initialise() -> None:
    import usercontext
    from usercontext.testing import RecordingClient

    options: dict[str, Any] = {}
    if SERVED == "full":
        everything = {name: True for name in usercontext.RequestData.__slots__ if "include" in name}
        options["request_data"] = usercontext.RequestData(**everything)
        options["clients"] = [RecordingClient(recording=True)]
        options["scrub"] = [("$user.email", "mask")]
    usercontext.init(f"sqlite:///{REPORTS}", **options)


def _user_of(request: Any) -> dict[str, str]:
    return {"id": request.headers.get("x-user", "7"), "email": "ada@example.com"}


def _options() -> dict[str, Any]:
    return {"resolver": _user_of, "resolve": "eager" if SERVED == "full" else "lazy"}


def _count(source: Any) -> None:
    kind = source.get("type", "wsgi")
    if kind in ("http", "websocket", "wsgi") and "usercontext.scope" not in source:
        requests[kind] += 1


def _serve_wsgi(call: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return what serves every app of a class of WSGI apps; `call` finds what it would call."""

    def serve(cls: Any) -> None:
        from usercontext.wsgi import UserContextMiddleware

        bare = cls.__call__

        def served(self: Any, environ: Any, start_response: Any) -> Any:
            app = UserContextMiddleware(call(self) or bare.__get__(self), **_options())
            _count(environ)
            return app(environ, start_response)

        cls.__call__ = served

    return serve


def _serve_asgi(call: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return what serves every app of a class of ASGI apps; `call` finds what it would call."""

    def serve(cls: Any) -> None:
        bare = cls.__call__

        async def served(self: Any, scope: Any, receive: Any, send: Any) -> None:
            await _asgi(call(self) or bare.__get__(self))(scope, receive, send)

        cls.__call__ = served

    return serve


def _asgi(app: Any) -> Any:
    from usercontext.asgi import UserContextMiddleware

    middleware = UserContextMiddleware(app, **_options())

    async def served(scope: Any, receive: Any, send: Any) -> None:
        _count(scope)
        await middleware(scope, receive, send)

    return served


def _serve_transport(cls: Any) -> None:
    """Serve what a test client is given, which may be any callable, and not an app of a class."""
    bare = cls.__init__

    def created(self: Any, app: Any, *args: Any, **options: Any) -> None:
        bare(self, _asgi(app), *args, **options)

    cls.__init__ = created


#: Where apps are called, by class. Those of Flask and Quart are served as users write it, around
#: `wsgi_app` and `asgi_app`; Starlette's test client serves plain functions as well.
_SERVED: dict[str, Callable[[Any], None]] = {
    "flask.Flask": _serve_wsgi(lambda app: app.wsgi_app),
    "falcon.App": _serve_wsgi(lambda app: None),
    "falcon.asgi.App": _serve_asgi(lambda app: None),
    "quart.Quart": _serve_asgi(lambda app: app.asgi_app),
    "starlette.applications.Starlette": _serve_asgi(lambda app: None),
    "starlette.testclient._TestClientTransport": _serve_transport,
}
