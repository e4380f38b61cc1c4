"""OpenTelemetry on the wire: what a receiver of OTLP over HTTP decodes of spans and log records."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiMiddleware
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiMiddleware
from opentelemetry.propagate import inject
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.clients.serving import BOTH
from tests.driver import (
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, wsgi
from usercontext.clients.opentelemetry import FIELDS, OpenTelemetryClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada"}
ADAS = {"user.id": "1", "user.name": "ada", "client.address": "203.0.113.9"}
PLACES = pytest.mark.parametrize("place", ["outside", "inside"])


class Receiver:
    """A server of OTLP on this machine, and what it was sent."""

    def __init__(self) -> None:
        self.spans: dict[str, dict[str, Any]] = {}
        self.logs: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.take(self.path, body, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Decode a request by its path."""
        if path == "/v1/traces":
            self.take_spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.take_logs(ExportLogsServiceRequest.FromString(body))
        else:
            self.headers.append(headers)

    def take_spans(self, request: Any) -> None:
        """Keep the attributes of each span by its kind: "server" or the span's name."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    is_server = span.kind == Span.SPAN_KIND_SERVER
                    self.spans["server" if is_server else span.name] = decoded(span.attributes)

    def take_logs(self, request: Any) -> None:
        """Keep the attributes of each log record."""
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                self.logs += [decoded(record.attributes) for record in scope.log_records]


def decoded(attributes: Any) -> dict[str, Any]:
    """Return attributes as they arrive, of those that our fields may be."""
    names = {*FIELDS.values(), "enduser.id"}
    return {one.key: one.value.string_value for one in attributes if one.key in names}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.02])
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@contextmanager
def exporting(receiver: Receiver) -> Iterator[tuple[TracerProvider, LoggerProvider]]:
    """Make providers that export to the receiver, all of it when they are left."""
    tracing, logging = TracerProvider(), LoggerProvider()
    spans, logs = f"{receiver.url}/v1/traces", f"{receiver.url}/v1/logs"
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=spans)))
    logging.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=logs)))
    yield tracing, logging
    tracing.shutdown()
    logging.shutdown()


def serve(interface: str, place: str, receiver: Receiver, **options: Any) -> None:
    """Serve a request that logs, and calls another service, in a span of its own."""
    with exporting(receiver) as (tracing, logging):

        def handler() -> None:
            with tracing.get_tracer("shop").start_as_current_span("call"):
                logging.get_logger("shop").emit(body="paid")
                headers: dict[str, str] = {}
                inject(headers)
                urlopen(Request(f"{receiver.url}/orders", b"", headers)).close()

        over_asgi = interface == "asgi"
        client = OpenTelemetryClient(tracer_provider=tracing, logger_provider=logging, **options)
        ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
        theirs: Any = AsgiMiddleware if over_asgi else WsgiMiddleware
        app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
        app = theirs(app, tracer_provider=tracing) if place == "inside" else app
        data = RequestData(include_ip=True)
        app = ours(app, clients=[client], resolver=lambda _: ADA, request_data=data)
        app = theirs(app, tracer_provider=tracing) if place == "outside" else app
        if over_asgi:
            asgi_request(app, scope_of(x_forwarded_for="6.6.6.6"))
        else:
            wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))


@BOTH
@PLACES
def test_spans_and_log_records_arrive_with_their_user(
    interface: str, place: str, receiver: Receiver
) -> None:
    """The server's span, the one inside of it and the log record: all three, and our address."""
    serve(interface, place, receiver)
    assert receiver.spans["server"] == ADAS
    assert receiver.spans["call"] == ADAS
    assert receiver.logs == [ADAS]


@BOTH
@PLACES
def test_the_service_that_is_called_is_told_nothing(
    interface: str, place: str, receiver: Receiver
) -> None:
    """Its request carries the trace, and no baggage."""
    serve(interface, place, receiver)
    (headers,) = receiver.headers
    plain = {"accept-encoding", "connection", "content-length", "content-type", "host"}
    assert headers.keys() - plain - {"user-agent"} == {"traceparent"}


@BOTH
def test_azures_name_for_the_user_arrives(interface: str, receiver: Receiver) -> None:
    """Azure Monitor reads `enduser.id`, and `client.address`."""
    serve(interface, "inside", receiver, fields={**FIELDS, "id": "enduser.id"})
    azures = {"enduser.id": "1", "user.name": "ada", "client.address": "203.0.113.9"}
    assert receiver.spans["server"] == receiver.spans["call"] == azures
    assert receiver.logs == [azures]
