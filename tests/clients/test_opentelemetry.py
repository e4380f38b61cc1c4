"""OpenTelemetry: spans and log records, with its own middleware outside of ours and inside."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import warnings
from typing import Any, NamedTuple

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiMiddleware
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiMiddleware
from opentelemetry.propagate import inject
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind

from tests.clients.serving import BOTH
from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    ConfigurationError,
    RequestData,
    asgi,
    bind,
    init,
    isolation_scope,
    set_user,
    use_user,
    wsgi,
)
from usercontext.clients.opentelemetry import OpenTelemetryClient

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "name": "Ada Lovelace"}
ADAS = {
    "user.id": "1",
    "user.name": "ada",
    "user.email": "ada@shop.example",
    "user.full_name": "Ada Lovelace",
}
PLACES = pytest.mark.parametrize("place", ["outside", "inside"])


class Telemetry(NamedTuple):
    """A tracer provider of its own, and the spans that it exports."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    def span(self, name: str) -> Any:
        """Start a span."""
        return self.provider.get_tracer("shop").start_as_current_span(name)

    def users(self) -> dict[str, Any]:
        """Return what each span says of its user, by the span's name."""
        return {
            span.name: {
                name: value
                for name, value in (span.attributes or {}).items()
                if name.startswith(("user.", "enduser."))
            }
            for span in self.exporter.get_finished_spans()
            if "asgi.event.type" not in (span.attributes or {})
        }


def telemetry(sampler: Any = ALWAYS_ON) -> Telemetry:
    """Make a provider that exports into memory."""
    made = Telemetry(TracerProvider(sampler=sampler), InMemorySpanExporter())
    made.provider.add_span_processor(SimpleSpanProcessor(made.exporter))
    return made


@pytest.fixture
def spans() -> Telemetry:
    """Return a provider that samples every trace."""
    return telemetry()


def serve(interface: str, place: str, spans: Telemetry, handler: Any, **options: Any) -> None:
    """Serve a request with OpenTelemetry's middleware in its place."""
    over_asgi = interface == "asgi"
    client = OpenTelemetryClient(tracer_provider=spans.provider)

    def theirs(app: Any) -> Any:
        kind: Any = AsgiMiddleware if over_asgi else WsgiMiddleware
        return kind(app, tracer_provider=spans.provider)

    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    app = theirs(app) if place == "inside" else app
    app = ours(app, **{"clients": [client], **options})
    app = theirs(app) if place == "outside" else app
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for="6.6.6.6"))
    else:
        wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))


SERVER = {"asgi": "GET /cart", "wsgi": "GET"}


def server_of(users: dict[str, Any]) -> Any:
    """Return what the server's span says of its user."""
    (name,) = [name for name in users if name.startswith("GET")]
    return users[name]


@BOTH
@PLACES
def test_server_and_child_spans_name_the_user(interface: str, place: str, spans: Telemetry) -> None:
    """Whichever middleware is outside, the resolver's user is on both."""

    def handler() -> None:
        with spans.span("query"):
            pass

    serve(interface, place, spans, handler, resolver=lambda _: ADA)
    users = spans.users()
    assert server_of(users) == ADAS
    assert users["query"] == ADAS


@BOTH
@PLACES
def test_a_request_without_other_spans_names_its_user(
    interface: str, place: str, spans: Telemetry
) -> None:
    """The server's span is sent anyway, so its user is resolved when the response starts."""
    serve(interface, place, spans, lambda: None, resolver=lambda _: ADA)
    assert server_of(spans.users()) == ADAS


def test_an_async_resolver_names_the_server_span(spans: Telemetry) -> None:
    """It cannot be awaited when a span starts, and is when the response does."""

    async def resolver(_request: object) -> Any:
        await asyncio.sleep(0)
        return ADA

    serve("asgi", "inside", spans, lambda: None, resolver=resolver)
    assert server_of(spans.users()) == ADAS


@BOTH
@PLACES
def test_an_error_names_the_user(interface: str, place: str, spans: Telemetry) -> None:
    """A request that fails before any response is named, too."""
    with pytest.raises(ZeroDivisionError):
        serve(interface, place, spans, lambda: 1 / 0, resolver=lambda _: ADA)
    assert server_of(spans.users()) == ADAS


@BOTH
@PLACES
def test_unsampled_requests_are_not_resolved(interface: str, place: str) -> None:
    """What is not sent asks nobody."""
    calls: list[object] = []
    serve(interface, place, telemetry(ALWAYS_OFF), lambda: None, resolver=calls.append)
    assert calls == []


@BOTH
@PLACES
def test_a_user_set_deep_in_the_request_is_on_the_server_span(
    interface: str, place: str, spans: Telemetry
) -> None:
    """set_user() inside of another span names every open span, and later ones."""

    def handler() -> None:
        with spans.span("login"):
            set_user(ADA)
        with spans.span("query"):
            pass

    serve(interface, place, spans, handler)
    users = spans.users()
    assert server_of(users) == users["login"] == users["query"] == ADAS


@BOTH
@PLACES
def test_a_change_leaves_nothing_of_the_first_user(
    interface: str, place: str, spans: Telemetry
) -> None:
    """The second user has one field: none of the first one's stays beside it."""

    def handler() -> None:
        set_user(ADA)
        set_user({"id": 2})

    serve(interface, place, spans, handler)
    assert server_of(spans.users()) == {"user.id": "2"}


@BOTH
@PLACES
def test_explicitly_nobody_clears_every_key(interface: str, place: str, spans: Telemetry) -> None:
    """No attribute is left, not even an empty one, the address included."""

    def handler() -> None:
        set_user({**ADA, "ip_address": "198.51.100.7"})
        set_user(None)

    serve(interface, place, spans, handler)
    assert server_of(spans.users()) == {}
    assert "198.51.100.7" not in str(
        [span.attributes for span in spans.exporter.get_finished_spans()]
    )


@BOTH
@PLACES
def test_the_address_is_ours(interface: str, place: str, spans: Telemetry) -> None:
    """With include_ip `client.address` is the one that was found through trusted proxies."""
    trusting = RequestData(include_ip=True, trusted_proxies=["203.0.113.0/24"])
    serve(interface, place, spans, lambda: None, resolver=lambda _: ADA, request_data=trusting)
    (server,) = [
        span for span in spans.exporter.get_finished_spans() if span.kind is SpanKind.SERVER
    ]
    assert server.attributes is not None
    assert server.attributes["client.address"] == "6.6.6.6"


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_what_the_app_gives_a_span_wins_whole(when: str, spans: Telemetry) -> None:
    """A span that names a user itself gets nothing of ours beside it."""
    explicit = {"user.id": "9"}

    def handler() -> None:
        tracer = spans.provider.get_tracer("shop")
        start = explicit if when == "at the start" else None
        with tracer.start_as_current_span("query", attributes=start) as span:
            span.set_attributes(explicit)
            set_user(ADA)

    serve("wsgi", "outside", spans, handler)
    assert spans.users()["query"] == explicit


def test_a_user_given_after_the_start_is_not_blended_with_ours(spans: Telemetry) -> None:
    """A span of ada's request that the app says is bob's keeps none of ada's fields."""

    def handler() -> None:
        set_user(ADA)
        with spans.provider.get_tracer("shop").start_as_current_span("query") as span:
            span.set_attribute("user.id", "bob")

    serve("wsgi", "outside", spans, handler)
    assert spans.users()["query"] == {"user.id": "bob"}


def test_nothing_goes_into_baggage(spans: Telemetry) -> None:
    """Services that the app calls are not told who its user is."""
    carried: dict[str, str] = {}

    def handler() -> None:
        set_user(ADA)
        with spans.span("call"):
            inject(carried)

    serve("asgi", "inside", spans, handler)
    assert carried.keys() == {"traceparent"}


def test_blocks_and_jobs_keep_their_own_user(spans: Telemetry) -> None:
    """A change of the request's user leaves the spans of use_user and isolation_scope alone."""

    def handler() -> None:
        with use_user({"id": 2}):
            block = spans.provider.get_tracer("shop").start_span("block")
        with isolation_scope(user={"id": 3}), spans.span("job"):
            set_user({"id": 4})
        set_user(ADA)
        block.end()

    serve("wsgi", "outside", spans, handler)
    users = spans.users()
    assert server_of(users) == ADAS
    assert (users["block"], users["job"]) == ({"user.id": "2"}, {"user.id": "4"})


def test_a_job_leaves_the_span_that_it_stands_in_alone(spans: Telemetry) -> None:
    """Neither the server's span nor that of a batch is the job's: others may follow in it."""
    init(None, clients=[OpenTelemetryClient(tracer_provider=spans.provider)])

    def handler() -> None:
        for number in (1, 2):
            with isolation_scope({"id": number}), spans.span(f"job {number}"):
                pass

    app = wsgi.UserContextMiddleware(plain_wsgi_app(handler))
    wsgi_request(WsgiMiddleware(app, tracer_provider=spans.provider))
    with spans.span("batch"):
        handler()
    users = spans.users()
    assert (server_of(users), users["batch"]) == ({}, {})
    assert (users["job 1"], users["job 2"]) == ({"user.id": "1"}, {"user.id": "2"})


def test_a_bound_thread_names_the_server_span(spans: Telemetry) -> None:
    """A thread that knows no current span still finds the request's own."""

    def handler() -> None:
        contextvars.Context().run(bind(set_user), ADA)

    serve("wsgi", "outside", spans, handler)
    assert server_of(spans.users()) == ADAS


def test_concurrent_requests_stay_apart(spans: Telemetry) -> None:
    """Requests in flight at once name each its own user, on all of their spans."""
    client = OpenTelemetryClient(tracer_provider=spans.provider)

    async def handler() -> None:
        with spans.span("query"):
            await asyncio.sleep(0)

    app = AsgiMiddleware(
        asgi.UserContextMiddleware(
            plain_asgi_app(handler),
            clients=[client],
            resolver=lambda request: {"id": request.headers["x-user"]},
        ),
        tracer_provider=spans.provider,
    )

    async def run() -> None:
        await asyncio.gather(*(asgi_call(app, scope_of(x_user=str(n))) for n in range(10)))

    asyncio.run(run())
    traces: dict[int, set[Any]] = {}
    for span in spans.exporter.get_finished_spans():
        assert span.attributes is not None
        if "asgi.event.type" not in span.attributes:
            traces.setdefault(span.context.trace_id, set()).add(span.attributes["user.id"])
    assert sorted(int(*users) for users in traces.values()) == list(range(10))


def test_nobody_yet_may_be_somebody_later(spans: Telemetry) -> None:
    """A span of the authentication itself asks too early; what comes after it is named."""
    authenticated: list[Any] = []

    def handler() -> None:
        with spans.span("authenticate"):
            authenticated.append(ADA)
        with spans.span("query"):
            pass

    serve("asgi", "inside", spans, handler, resolver=lambda _: [*authenticated, None][0])
    users = spans.users()
    assert (users["authenticate"], users["query"]) == ({}, ADAS)
    assert server_of(users) == ADAS


def test_spans_of_nobody_cost_few_questions(spans: Telemetry) -> None:
    """A request without a user asks the resolver for its 1st, 2nd, 4th, 8th ... span only."""
    calls: list[object] = []

    def handler() -> None:
        for _ in range(100):
            with spans.span("query"):
                pass

    serve("wsgi", "inside", spans, handler, resolver=calls.append)
    assert len(calls) <= 8


def test_a_resolver_that_is_traced_does_not_recurse(spans: Telemetry) -> None:
    """The spans of the resolver's own queries name nobody."""

    def resolver(_request: object) -> Any:
        with spans.span("look up"):
            return ADA

    def handler() -> None:
        with spans.span("query"):
            pass

    serve("wsgi", "inside", spans, handler, resolver=resolver)
    assert spans.users()["query"] == ADAS


def test_a_hook_that_fails_breaks_nothing(
    spans: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """An app does not fail because a span could not be named; the log says so once."""
    OpenTelemetryClient(tracer_provider=spans.provider).setup(lambda *_, **__: 1 / 0)  # type: ignore[arg-type]
    with isolation_scope():
        for _ in range(2):
            with spans.span("query"):
                pass
    assert spans.users() == {"query": {}}
    assert len([record for record in caplog.records if record.name == "usercontext"]) == 1


def test_the_attributes_are_configurable(spans: Telemetry) -> None:
    """Azure Monitor reads `enduser.id`; what is left out is not sent."""
    client = OpenTelemetryClient(tracer_provider=spans.provider, fields={"id": "enduser.id"})

    def handler() -> None:
        set_user(ADA)
        with spans.span("query"):
            pass

    serve("wsgi", "outside", spans, handler, clients=[client])
    assert spans.users()["query"] == {"enduser.id": "1"}
    with pytest.raises(ConfigurationError, match="fields"):
        OpenTelemetryClient(fields=["id"])  # type: ignore[arg-type]


def test_a_provider_may_be_set_later(monkeypatch: pytest.MonkeyPatch, spans: Telemetry) -> None:
    """init() may come before the provider: the first request finds it."""
    from opentelemetry import trace

    client = OpenTelemetryClient()
    client.setup(lambda *_, **__: None)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    monkeypatch.setattr(client._providers[0], "_find", lambda: spans.provider)

    def handler() -> None:
        set_user(ADA)
        with spans.span("query"):
            pass

    serve("wsgi", "outside", spans, handler, clients=[client])
    assert spans.users()["query"] == ADAS


class Exported(InMemoryLogRecordExporter):
    """Writes down what a record says of its user at the moment it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.users: list[Any] = []

    def export(self, batch: Any) -> Any:
        for log in batch:
            attributes = dict(log.log_record.attributes or {})
            self.users.append({k: v for k, v in attributes.items() if k.startswith("user.")})
        return super().export(batch)


class Logged(NamedTuple):
    """Log records that went through a provider of their own."""

    client: OpenTelemetryClient
    log: logging.Logger
    users: list[Any]


@pytest.fixture
def logged() -> Logged:
    """Return a logger whose records are exported at once, by a processor added before ours."""
    provider, exporter = LoggerProvider(), Exported()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    log = logging.Logger("shop")  # noqa: LOG001 - known to nobody else
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        log.addHandler(LoggingHandler(logger_provider=provider))
    return Logged(OpenTelemetryClient(logger_provider=provider), log, exporter.users)


@BOTH
def test_log_records_name_the_known_user(interface: str, spans: Telemetry, logged: Logged) -> None:
    """A record takes the user before it is exported, and asks nobody for it."""
    calls: list[object] = []

    def handler() -> None:
        logged.log.info("before")
        set_user(ADA)
        logged.log.info("paid")

    serve(interface, "outside", spans, handler, clients=[logged.client], resolver=calls.append)
    assert logged.users == [{}, ADAS]
    assert calls == []


def test_a_log_record_that_names_a_user_itself_is_left_alone(logged: Logged) -> None:
    """The app's own attributes win whole."""
    logged.client.setup(lambda *_, **__: {"id": "1", "username": "ada"})
    with isolation_scope():
        logged.log.info("paid", extra={"user.id": "9"})
    assert logged.users == [{"user.id": "9"}]


def test_a_span_that_cannot_forget_is_given_an_empty_value(spans: Telemetry) -> None:
    """Another SDK's span may have no way to remove an attribute: nobody's id is better than his."""
    from usercontext.clients.opentelemetry import _remove

    class Foreign:
        attributes = {"user.id": "1"}  # noqa: RUF012

        def set_attribute(self, name: str, value: str) -> None:
            self.attributes[name] = value

    _remove(Foreign(), "user.id")
    assert Foreign.attributes == {"user.id": ""}


def test_a_span_at_its_limit_drops_the_oldest(spans: Telemetry) -> None:
    """Documented: past max_attributes the user goes first, and a change brings it back."""

    def handler() -> None:
        set_user({"id": 1})
        with spans.span("query") as span:
            span.set_attributes({f"key{number}": number for number in range(128)})
            set_user({"id": 2})

    serve("wsgi", "outside", spans, handler)
    assert spans.users()["query"] == {"user.id": "2"}
