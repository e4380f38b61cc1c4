"""Texts of errors in traces: what each library would send, by the option `exception_text`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import elasticapm
import newrelic.agent
import pytest
from aws_xray_sdk.core import xray_recorder
from aws_xray_sdk.core.context import Context
from ddtrace.trace import TraceFilter, tracer
from elasticapm.transport.base import Transport
from newrelic.api.application import Application
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode
from scout_apm.api import Error, WebTransaction
from scout_apm.core.agent.socket import CoreAgentSocketThread
from scout_apm.core.config import scout_config
from scout_apm.core.context import scout_context_var
from scout_apm.core.error import ErrorMonitor
from scout_apm.core.error_service import ErrorServiceThread
from scout_apm.core.samplers.thread import SamplersThread
from scout_apm.core.tracked_request import TrackedRequest

from tests.driver import asgi_request, plain_asgi_app
from tests.requests_of import scope_of
from usercontext import asgi
from usercontext.clients import error_texts
from usercontext.clients.ddtrace import DdtraceClient
from usercontext.clients.elasticapm import ElasticapmClient
from usercontext.clients.newrelic import NewrelicClient
from usercontext.clients.opentelemetry import OpenTelemetryClient
from usercontext.clients.scout import ScoutClient
from usercontext.clients.xray import XRayClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_QUERY = "hunter2hunter2"
POSTED = "4111-1111-1111-1111"


class Failing:
    """A library, whose client is `client`, and which is handed an error by `report`."""

    def __init__(
        self, client: Any, report: Callable[[Callable[[], None]], None], sent: Callable[[], Any]
    ) -> None:
        self.client = client
        self.report = report
        self.sent = sent

    def texts(self, option: str) -> str:
        """Return all that would be sent of a request that fails."""
        options: Any = {"exception_text": option, "clients": [self.client]}
        app = plain_asgi_app(lambda: self.report(fail))
        asgi_request(asgi.UserContextMiddleware(app, **options), scope_of(query_string=QUERY))
        return str(self.sent())


QUERY = f"q={IN_QUERY}".encode()


def fail() -> None:
    """Raise an error that quotes what was posted, out of one that quotes the query."""
    try:
        raise LookupError(f"nothing found of {IN_QUERY}")
    except LookupError:
        int(POSTED)


class _Kept(TraceFilter):
    def __init__(self) -> None:
        self.said: list[Any] = []

    def process_trace(self, trace: list[Any]) -> None:
        self.said += [(span.get_tags(), getattr(span, "_get_events", list)()) for span in trace]


@pytest.fixture
def ddtrace() -> Iterator[Failing]:
    """Trace with Datadog's library, into memory."""
    kept = _Kept()
    tracer.configure(trace_processors=[kept])

    def report(fail: Callable[[], None]) -> None:
        with tracer.trace("web") as span:
            with pytest.raises(ValueError) as raised, tracer.trace("pay"):
                fail()
            if hasattr(span, "record_exception"):
                span.record_exception(raised.value, {"shop": "books"})

    client = DdtraceClient()
    yield Failing(client, report, lambda: kept.said)
    client.span_processor.unregister()
    tracer.configure(trace_processors=[])


@pytest.fixture
def opentelemetry() -> Failing:
    """Trace with OpenTelemetry's SDK, into memory."""
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    def report(fail: Callable[[], None]) -> None:
        tracer = provider.get_tracer("shop")
        with pytest.raises(ValueError), tracer.start_as_current_span("pay"):
            fail()
        with tracer.start_as_current_span("by hand") as span:
            try:
                fail()
            except ValueError as error:
                span.record_exception(error, {"exception.message": f"{error}!"})
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.set_status(StatusCode.ERROR, str(error))

    client = OpenTelemetryClient(tracer_provider=provider)
    return Failing(client, report, lambda: [one.to_json() for one in spans.get_finished_spans()])


@pytest.fixture
def opentelemetry_logs() -> Iterator[Failing]:
    """Export log records with OpenTelemetry's handler, into memory."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opentelemetry.sdk._logs import LoggingHandler

        provider, logs = LoggerProvider(), InMemoryLogRecordExporter()
        provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
        handler = LoggingHandler(logger_provider=provider)
    logger = logging.getLogger("shop.told")
    logger.addHandler(handler)
    logger.propagate = False

    def report(fail: Callable[[], None]) -> None:
        try:
            fail()
        except ValueError as error:
            logger.exception("not paid: %s", error)

    client = OpenTelemetryClient(logger_provider=provider)
    yield Failing(client, report, lambda: [one.to_json() for one in logs.get_finished_logs()])
    logger.removeHandler(handler)


@pytest.fixture
def newrelic_(newrelic_application: Any, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Keep New Relic's transactions."""
    nodes: list[Any] = []
    monkeypatch.setattr(Application, "record_transaction", lambda _, node: nodes.append(node))

    def report(fail: Callable[[], None]) -> None:
        with newrelic.agent.BackgroundTask(newrelic_application, "pay"):
            with pytest.raises(ValueError), newrelic.agent.FunctionTrace("inner"):
                fail()
            try:
                fail()
            except ValueError:
                newrelic.agent.notice_error()

    def sent() -> Any:
        return [
            (node.errors, [one.agent_attributes for one in node.root.children]) for node in nodes
        ]

    return Failing(NewrelicClient(), report, sent)


@pytest.fixture
def scout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """Configure Scout without its agent."""
    errors: list[Any] = []
    own = vars(TrackedRequest)["stop_span"], vars(ErrorMonitor)["send"]
    monkeypatch.setattr(CoreAgentSocketThread, "send", lambda *_: None)
    monkeypatch.setattr(ErrorServiceThread, "send", lambda **sent: errors.append(sent["error"]))
    monkeypatch.setattr(SamplersThread, "ensure_started", lambda: None)
    monkeypatch.setattr("scout_apm.core.install", lambda **_: True)
    scout_config.set(monitor=True, errors_enabled=True)

    def report(fail: Callable[[], None]) -> None:
        with WebTransaction("pay"):
            with pytest.raises(ValueError) as raised:
                fail()
            # Outside of the block nothing but what it was given says which error it is.
            Error.capture(raised.value)

    yield Failing(ScoutClient(), report, lambda: errors)
    TrackedRequest.stop_span, ErrorMonitor.send = own
    scout_context_var.set(None)
    scout_config.reset_all()


@pytest.fixture
def xray() -> Iterator[Failing]:
    """Keep X-Ray's segments, as they would be sent."""
    emitter, context, kept = xray_recorder.emitter, xray_recorder.context, []

    class Kept:
        def send_entity(self, segment: Any) -> None:
            kept.append(json.loads(segment.serialize()))

        def set_daemon_address(self, address: object) -> None:
            """Send nowhere."""

    emitter._socket.close()
    xray_recorder.configure(sampling=False, service="shop", context=Context())
    xray_recorder.emitter = Kept()

    def report(fail: Callable[[], None]) -> None:
        pay = xray_recorder.in_subsegment("pay")
        with pytest.raises(ValueError), xray_recorder.in_segment("shop"), pay:
            fail()

    yield Failing(XRayClient(), report, lambda: kept)
    for name in ("begin_segment", "end_segment"):
        vars(xray_recorder).pop(name, None)
    xray_recorder.clear_trace_entities()
    xray_recorder.configure(context=context)
    xray_recorder.emitter = emitter


class _KeptTransport(Transport):
    sent: list[Any]

    def start_thread(self, pid: int | None = None) -> None:
        """Nothing is sent."""

    def stop_thread(self) -> None:
        """Nothing was started."""

    def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
        del flush
        self.__dict__.setdefault("sent", []).append(self._process_event(event_type, data))


@pytest.fixture
def elastic() -> Iterator[Failing]:
    """Report with Elastic's client, into memory."""
    apm = elasticapm.Client(
        service_name="shop",
        transport_class=f"{__name__}._KeptTransport",
        central_config=False,
        cloud_provider="none",
        disable_log_record_factory=True,
        metrics_interval="0s",
        server_version=(8, 0),
        instrument=False,
        collect_local_variables="off",
        source_lines_error_app_frames=0,
    )

    def report(fail: Callable[[], None]) -> None:
        apm.begin_transaction("request")
        try:
            fail()
        except ValueError as error:
            apm.capture_exception()
            apm.capture_message(f"not paid: {error}")
        apm.end_transaction("pay")

    yield Failing(ElasticapmClient(apm), report, lambda: apm._transport.sent)
    apm.close()


LIBRARIES = [
    "ddtrace",
    "opentelemetry",
    "opentelemetry_logs",
    "newrelic_",
    "scout",
    "xray",
    "elastic",
]


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Failing:
    """Return the library of the test."""
    found: Failing = request.getfixturevalue(request.param)
    return found


EACH = pytest.mark.parametrize("library", LIBRARIES, indirect=True)


@EACH
def test_safe(library: Failing) -> None:
    """By default a trace tells what was wrong and where, and quotes nothing."""
    said = library.texts("safe")
    assert "invalid literal for int()" in said
    assert POSTED not in said
    assert IN_QUERY not in said


@EACH
def test_full(library: Failing) -> None:
    """With "full" the texts are the library's own."""
    assert POSTED in library.texts("full")


@EACH
def test_none(library: Failing) -> None:
    """With "none" the error's class is told alone."""
    said = library.texts("none")
    assert "ValueError" in said
    assert "invalid literal" not in said
    assert POSTED not in said


@EACH
def test_what_cannot_be_looked_through(library: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hiding fails, the text is left out, and not sent as it is."""

    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError

    monkeypatch.setattr(error_texts, "retelling", fail)
    said = library.texts("safe")
    assert "[Filtered]" in said
    assert POSTED not in said
