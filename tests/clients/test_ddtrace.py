"""ddtrace: the root span of the request, with its own middlewares outside of ours and inside."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from ddtrace.contrib.asgi import TraceMiddleware
from ddtrace.contrib.wsgi import DDWSGIMiddleware
from ddtrace.propagation.http import HTTPPropagator
from ddtrace.trace import TraceFilter, tracer

from tests.clients.serving import BOTH
from tests.driver import (
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, bind, init, isolation_scope, set_user, use_user, wsgi
from usercontext.clients.ddtrace import FIELDS, DdtraceClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "name": "Ada Lovelace"}
ADAS = {
    "usr.id": "1",
    "usr.name": "ada",
    "usr.email": "ada@shop.example",
    "usr.full_name": "Ada Lovelace",
}
SPOOFED = "6.6.6.6"
PLACES = pytest.mark.parametrize("place", ["outside", "inside"])
ADDRESSES = ("http.client_ip", "network.client.ip")


class Kept(TraceFilter):
    """Keeps every trace instead of having it sent."""

    def __init__(self) -> None:
        self.roots: list[Any] = []

    def process_trace(self, trace: list[Any]) -> None:
        """Keep the root span, and drop the trace."""
        self.roots += [span for span in trace if span._local_root is span]

    def users(self) -> list[dict[str, Any]]:
        """Return and forget what each root span said of its user."""
        seen = [users_of(root) for root in self.roots]
        self.roots.clear()
        return seen


def users_of(span: Any) -> dict[str, Any]:
    """Return what a span says of its user, be it text or number."""
    said = {**span.get_tags(), **span.get_metrics()}
    return {name: value for name, value in said.items() if name.startswith("usr.")}


def in_our_words(span: Any) -> Any:
    """Return whom a span names, as the conformance suite wants it."""
    tags = span.get_tags()
    return {field: tags[name] for field, name in FIELDS.items() if name in tags} or None


@pytest.fixture
def traces() -> Iterator[Kept]:
    """Keep the traces, in memory."""
    kept = Kept()
    tracer.configure(trace_processors=[kept])
    yield kept
    tracer.configure(trace_processors=[])


@pytest.fixture
def make_client(traces: Kept) -> Iterator[Callable[..., DdtraceClient]]:
    """Make clients, of which the last alone is registered, and none afterwards."""
    made: list[DdtraceClient] = []

    def forget() -> None:
        for one in made:
            while one.span_processor in type(one.span_processor).__processors__:
                one.span_processor.unregister()
        made.clear()

    def make(**options: Any) -> DdtraceClient:
        forget()
        made.append(DdtraceClient(**options))
        return made[-1]

    yield make
    forget()


def test_it_conforms(traces: Kept, make_client: Any) -> None:
    """A root span that starts in the request asks for its user when it finishes."""

    def report() -> None:
        with tracer.trace("job"):
            pass

    def users() -> list[Any]:
        seen = [in_our_words(root) for root in traces.roots]
        traces.roots.clear()
        return seen

    client_conformance(make_client, report=report, users=users)


def test_it_conforms_inside_of_a_trace(make_client: Any) -> None:
    """One that started outside is told of its user."""
    seen: list[Any] = []

    def report() -> None:
        root = tracer.current_root_span()
        assert root is not None
        seen.append(in_our_words(root))

    def users() -> list[Any]:
        taken = seen.copy()
        seen.clear()
        return taken

    client_conformance(
        make_client,
        report=report,
        users=users,
        resolves=False,
        around=lambda: tracer.trace("web.request"),
    )


def serve(interface: str, place: str, handler: Any, client: Any, **options: Any) -> None:
    """Serve a request with ddtrace's middleware in its place."""
    over_asgi = interface == "asgi"
    theirs: Any = TraceMiddleware if over_asgi else DDWSGIMiddleware
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    options = {"clients": [client], **options}
    app = ours(theirs(app), **options) if place == "inside" else theirs(ours(app, **options))
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for=SPOOFED))
    else:
        wsgi_request(app, environ_of(x_forwarded_for=SPOOFED))


@BOTH
@PLACES
def test_the_root_span_names_the_user(
    interface: str, place: str, traces: Kept, make_client: Any
) -> None:
    """It is sent anyway, so its user is resolved; the spans below it name nobody."""
    serve(interface, place, lambda: None, make_client(), resolver=lambda _: ADA)
    assert traces.users() == [ADAS]


@BOTH
@PLACES
def test_an_error_names_the_user(
    interface: str, place: str, traces: Kept, make_client: Any
) -> None:
    """A request that fails before any response is named, too."""
    with pytest.raises(ZeroDivisionError):
        serve(interface, place, lambda: 1 / 0, make_client(), resolver=lambda _: ADA)
    assert traces.roots[0].error == 1
    assert traces.users() == [ADAS]


@BOTH
@PLACES
def test_a_user_set_below_another_span_is_on_the_root(
    interface: str, place: str, traces: Kept, make_client: Any
) -> None:
    """set_user() deep in the request names the root span at once, and no other."""

    def handler() -> None:
        with tracer.trace("login"):
            set_user(ADA)
        with tracer.trace("query") as below:
            assert users_of(below) == {}
        assert users_of(tracer.current_root_span()) == ADAS

    serve(interface, place, handler, make_client())
    assert traces.users() == [ADAS]


@BOTH
@PLACES
def test_nothing_of_the_first_user_stays(
    interface: str, place: str, traces: Kept, make_client: Any
) -> None:
    """A field that the second user lacks is removed, and nobody removes all."""

    def handler() -> None:
        set_user(ADA)
        set_user({"id": 2})
        root = tracer.current_root_span()
        assert users_of(root) == {"usr.id": "2"}
        root.set_tag("usr.email", "eve@shop.example")  # type: ignore[union-attr]
        set_user(None)

    serve(interface, place, handler, make_client())
    assert traces.users() == [{}]


def test_values_are_text(traces: Kept, make_client: Any) -> None:
    """Datadog would take a number for a metric; a mapping has no tag."""
    fields = {"id": "usr.id", "seats": "usr.seats", "plan": "usr.plan"}
    user = {"id": 1, "seats": 3, "plan": {"name": "pro"}}
    serve("wsgi", "inside", lambda: None, make_client(fields=fields), resolver=lambda _: user)
    assert traces.roots[0].get_tag("usr.seats") == "3"
    assert traces.users() == [{"usr.id": "1", "usr.seats": "3"}]


def test_the_user_stays_in_this_service(traces: Kept, make_client: Any) -> None:
    """Nothing of the user is in the headers of calls to other services."""
    headers: dict[str, str] = {}

    def handler() -> None:
        set_user(ADA)
        with tracer.trace("call") as span:
            HTTPPropagator.inject(span.context, headers)

    serve("wsgi", "outside", handler, make_client())
    assert headers
    assert "shop.example" not in str(headers)
    assert "usr" not in str(headers)


@BOTH
@PLACES
def test_a_trace_that_is_dropped_is_not_resolved(
    interface: str, place: str, traces: Kept, make_client: Any
) -> None:
    """What the service further up has sampled out asks nobody."""
    calls: list[object] = []

    def drop() -> None:
        tracer.current_root_span().context.sampling_priority = -1  # type: ignore[union-attr]

    serve(interface, place, drop, make_client(), resolver=calls.append)
    assert calls == []


@BOTH
@PLACES
@pytest.mark.parametrize("include", [True, False])
def test_the_address_is_ours(
    interface: str, place: str, include: bool, traces: Kept, make_client: Any
) -> None:
    """What ddtrace finds in headers and of the peer is replaced, or removed."""

    def handler() -> None:
        root = tracer.current_root_span()
        for name in ADDRESSES:  # as DD_TRACE_CLIENT_IP_ENABLED does, at the request's start
            root.set_tag(name, SPOOFED)  # type: ignore[union-attr]

    data = RequestData(include_ip=include)
    serve(interface, place, handler, make_client(), request_data=data)
    address = "203.0.113.9" if include else None
    assert [traces.roots[0].get_tag(name) for name in ADDRESSES] == [address, None]


@BOTH
def test_no_address_leaves_with_a_failing_request(
    interface: str, traces: Kept, make_client: Any
) -> None:
    """Nor where no response starts, and nobody is resolved."""
    with tracer.trace("web.request") as root:
        root.set_tag("http.client_ip", SPOOFED)
        with pytest.raises(ZeroDivisionError):
            serve(interface, "inside", lambda: 1 / 0, make_client())
    assert root.get_tag("http.client_ip") is None


def test_a_thread_names_the_root_span_of_its_request(traces: Kept, make_client: Any) -> None:
    """No span is known to ddtrace in a plain thread; we kept it."""

    def handler() -> None:
        thread = Thread(target=bind(lambda: set_user(ADA)))
        thread.start()
        thread.join()
        assert users_of(tracer.current_root_span()) == ADAS

    serve("wsgi", "outside", handler, make_client())


def trace_another() -> Any:
    """Start a trace of its own, beside the one that is active."""
    return tracer.start_span("job")


@PLACES
def test_a_block_and_a_scope_leave_the_requests_trace_alone(
    place: str, traces: Kept, make_client: Any
) -> None:
    """Who is impersonated, or whose job runs in a request, is another; so is a trace of theirs."""

    def handler() -> None:
        with isolation_scope():
            set_user({"id": 4})
        assert users_of(tracer.current_root_span()) == {}
        set_user(ADA)
        with use_user({"id": 2}):
            trace_another().finish()
        with isolation_scope(user={"id": 3}):
            trace_another().finish()

    client = make_client()
    init(None, clients=[client])
    serve("wsgi", place, handler, client)
    assert traces.users() == [{"usr.id": "2"}, {"usr.id": "3"}, ADAS]


def test_a_trace_names_the_user_that_it_started_with(traces: Kept, make_client: Any) -> None:
    """It may finish in a block of somebody else, or when its request is over."""
    open_ones: list[Any] = []

    def handler() -> None:
        set_user(ADA)
        open_ones.append(trace_another())
        with use_user({"id": 2}):
            open_ones.append(trace_another())
            open_ones[0].finish()

    serve("wsgi", "outside", handler, make_client())
    open_ones[1].finish()
    assert traces.users() == [ADAS, ADAS, {"usr.id": "2"}]


def test_traces_outside_of_requests_are_left_alone(traces: Kept, make_client: Any) -> None:
    """What the app says of a job's user stays."""
    init(None, clients=[make_client()])
    with tracer.trace("job") as span:
        span.set_tag("usr.id", "9")
    assert traces.users() == [{"usr.id": "9"}]


PATCHED = """
import sys
import ddtrace
from ddtrace.trace import TraceFilter, tracer

class Kept(TraceFilter):
    roots = []
    def process_trace(self, trace):
        self.roots += [span for span in trace if span._local_root is span]

tracer.configure(trace_processors=[Kept()])
sys.path.insert(0, sys.argv[1])
from tests.driver import environ_of, wsgi_request
from usercontext import wsgi
from usercontext.clients.ddtrace import DdtraceClient

def wrap(app):
    return wsgi.UserContextMiddleware(
        app, clients=[DdtraceClient()], resolver=lambda _: {"id": 1}
    )

def check(app):
    for path in ("/cart", "/fail"):
        wsgi_request(app, {**environ_of(), "PATH_INFO": path})
    said = [(span.name, span.error, span.get_tag("usr.id")) for span in Kept.roots]
    name = said[0][0]
    assert said == [(name, 0, "1"), (name, 1, "1")], said
"""
FLASK = """
ddtrace.patch(flask=True)
import flask
app = flask.Flask("shop")
app.add_url_rule("/cart", view_func=lambda: "ok")
app.add_url_rule("/fail", endpoint="fail", view_func=lambda: str(1 / 0))
app.wsgi_app = wrap(app.wsgi_app)
check(app)
"""
DJANGO = """
ddtrace.patch(django=True)
import django
from django.conf import settings
settings.configure(ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], SECRET_KEY="x")
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("cart", lambda _: HttpResponse("ok")), path("fail", lambda _: 1 / 0)]
check(wrap(get_wsgi_application()))
"""


@pytest.mark.parametrize("program", [FLASK, DJANGO], ids=["flask", "django"])
def test_a_patched_framework(program: str, pytestconfig: pytest.Config) -> None:
    """Patching frameworks is for good, so this has a process of its own.

    Their errors are answered with a 500, and Django's span is over when the response starts.
    """
    pytest.importorskip("django" if program is DJANGO else "flask")
    done = subprocess.run(
        [sys.executable, "-c", PATCHED + program, str(pytestconfig.rootpath)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
