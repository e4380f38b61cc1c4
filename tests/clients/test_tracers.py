"""Several libraries that trace one request: one resolver call names the user in all of them."""

from __future__ import annotations

from typing import Any

import elasticapm
import pytest
from ddtrace.trace import TraceFilter, tracer
from elasticapm.traces import execution_context
from elasticapm.transport.base import Transport
from opentelemetry.sdk.trace import TracerProvider

from tests.clients.serving import BOTH, serve
from usercontext import set_user
from usercontext.clients.ddtrace import DdtraceClient
from usercontext.clients.elasticapm import ElasticapmClient
from usercontext.clients.opentelemetry import OpenTelemetryClient

ADA = {"id": 1, "username": "ada"}


class Dropped(TraceFilter):
    """Sends nothing."""

    def process_trace(self, trace: Any) -> None:
        """Drop a trace."""


class Threadless(Transport):
    """Starts no thread: elastic-apm's (6.26.2) ends with its buffer open, of which 3.14 warns."""

    def start_thread(self, pid: int | None = None) -> None:
        """Nothing is sent."""


class Tracers:
    """Three libraries with a trace open around a request, and whom each of them names."""

    def __init__(self, apm: Any) -> None:
        self.apm = apm
        self.provider = TracerProvider()
        self.datadog = DdtraceClient()
        self.clients = [
            ElasticapmClient(apm),
            self.datadog,
            OpenTelemetryClient(tracer_provider=self.provider),
        ]

    def serve(self, interface: str, handler: Any, **options: Any) -> list[Any]:
        """Serve a request, and return whom the traces name at its end."""
        self.apm.begin_transaction("request")
        server = self.provider.get_tracer("shop").start_as_current_span("request")
        with tracer.trace("request") as self.root, server as self.span:
            serve(interface, handler, *self.clients, **options)
            named = self.named()
        self.apm.end_transaction("GET /cart")
        return named

    def named(self) -> list[Any]:
        """Return whom the three traces name now, by id."""
        elastic = execution_context.get_transaction().context.get("user", {}).get("id")
        attributes: Any = self.span.attributes
        return [elastic, self.root.get_tag("usr.id"), attributes.get("user.id")]


@pytest.fixture
def tracers() -> Any:
    """Set the three up to send nothing, and undo that afterwards."""
    apm: Any = elasticapm.Client(
        service_name="shop",
        disable_send=True,
        transport_class=f"{__name__}.Threadless",
        central_config=False,
        cloud_provider="none",
        disable_log_record_factory=True,
        instrument=False,
        metrics_interval="0s",
    )
    tracer.configure(trace_processors=[Dropped()])
    made = Tracers(apm)
    yield made
    made.datadog.span_processor.unregister()
    tracer.configure(trace_processors=[])
    apm.close()


@BOTH
def test_one_resolver_call_names_the_user_in_every_trace(interface: str, tracers: Tracers) -> None:
    """All of them are sent anyway; the resolver is asked once, when the response starts."""
    calls: list[object] = []

    def resolver(request: object) -> Any:
        calls.append(request)
        return ADA

    assert tracers.serve(interface, lambda: None, resolver=resolver) == ["1"] * 3
    assert len(calls) == 1


@BOTH
def test_a_change_reaches_every_trace(interface: str, tracers: Tracers) -> None:
    """set_user() in the middle of a request changes all of them, and None clears all."""
    named: list[Any] = []

    def handler() -> None:
        for user in (ADA, {"id": 2}, None):
            set_user(user)
            named.append(tracers.named())

    tracers.serve(interface, handler)
    assert named == [["1"] * 3, ["2"] * 3, [None] * 3]
