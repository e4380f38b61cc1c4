"""Logfire: its own spans, its FastAPI and ASGI instrumentations, and its scrubbing."""

from __future__ import annotations

from typing import Any, NamedTuple

import logfire
import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.driver import asgi_request, plain_asgi_app, scope_of
from usercontext import RequestData, asgi, set_user
from usercontext.clients.opentelemetry import OpenTelemetryClient

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
ADAS = {
    "user.id": "1",
    "user.name": "ada",
    "user.email": "ada@shop.example",
    "client.address": "203.0.113.9",
}
ORDERS = pytest.mark.parametrize("order", ["outside", "inside"])


class Fire(NamedTuple):
    """A Logfire of its own that sends nothing, and what it would export."""

    logfire: logfire.Logfire
    client: OpenTelemetryClient
    spans: InMemorySpanExporter
    logs: InMemoryLogRecordExporter

    def users(self) -> dict[str, Any]:
        """Return what each span says of its user, by the span's name."""
        return {
            span.name: {n: v for n, v in (span.attributes or {}).items() if n in ADAS}
            for span in self.spans.get_finished_spans()
            if "asgi.event.type" not in (span.attributes or {})
        }

    def serve(self, order: str, app: Any, **options: Any) -> None:
        """Serve a request, ours being inside or outside of Logfire's instrumentation."""
        ours: Any = asgi.UserContextMiddleware
        options = {
            "clients": [self.client],
            "request_data": RequestData(include_ip=True),
            **options,
        }
        if order == "inside":
            app = self.logfire.instrument_asgi(ours(app, **options))
        else:
            app = ours(self.logfire.instrument_asgi(app), **options)
        asgi_request(app, scope_of(x_forwarded_for="6.6.6.6"))


@pytest.fixture
def fire() -> Fire:
    """Configure Logfire as a user does, with what keeps in the place of what sends."""
    client = OpenTelemetryClient()
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    made = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        additional_span_processors=[client.span_processor, SimpleSpanProcessor(spans)],
        advanced=logfire.AdvancedOptions(
            log_record_processors=[client.log_processor, SimpleLogRecordProcessor(logs)]
        ),
    )
    return Fire(made, client, spans, logs)


@ORDERS
def test_spans_name_the_user(fire: Fire, order: str) -> None:
    """The request's span, those in it, and what Logfire calls logs, which are spans too."""

    def handler() -> None:
        with fire.logfire.span("query"):
            fire.logfire.info("paid")

    fire.serve(order, plain_asgi_app(handler), resolver=lambda _: ADA)
    assert fire.users() == {"GET": ADAS, "query": ADAS, "paid": ADAS}


@ORDERS
def test_a_change_in_the_request_changes_its_span(fire: Fire, order: str) -> None:
    """Of the first user nothing stays, through Logfire's wrapped spans as well."""

    def handler() -> None:
        with fire.logfire.span("login"):
            set_user(ADA)
            set_user({"id": 2})

    fire.serve(order, plain_asgi_app(handler), request_data=RequestData())
    users = fire.users()
    assert users["login"] == {"user.id": "2"}
    assert {n: v for n, v in users["GET"].items() if n != "client.address"} == {"user.id": "2"}


@ORDERS
def test_an_error_names_its_user(fire: Fire, order: str) -> None:
    """There is no response to do it at."""

    def fail() -> None:
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        fire.serve(order, plain_asgi_app(fail), resolver=lambda _: ADA)
    assert fire.users()["GET"] == ADAS


@pytest.mark.parametrize("ours", ["around the app", "add_middleware"])
def test_fastapis_spans_name_the_user(fire: Fire, ours: str) -> None:
    """Its instrumentation stands in the middle of FastAPI's own stack of middlewares."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    app = fastapi.FastAPI()

    @app.get("/cart")
    async def cart() -> str:
        with fire.logfire.span("query"):
            return "ok"

    options: Any = {
        "clients": [fire.client],
        "resolver": lambda _: ADA,
        "request_data": RequestData(include_ip=True),
    }
    fire.logfire.instrument_fastapi(app)
    if ours == "add_middleware":
        app.add_middleware(asgi.UserContextMiddleware, **options)
    served: Any = app if ours == "add_middleware" else asgi.UserContextMiddleware(app, **options)
    asgi_request(served, scope_of(x_forwarded_for="6.6.6.6"))
    users = fire.users()
    assert users["GET /cart"] == ADAS
    assert users["query"] == ADAS


def test_a_span_that_names_a_user_itself_is_left_alone(fire: Fire) -> None:
    """What is given to logfire.span() wins, and wins whole."""

    def handler() -> None:
        set_user(ADA)
        fire.logfire.info("impersonated", **{"user.id": "9"})

    fire.serve("inside", plain_asgi_app(handler))
    assert fire.users()["impersonated"] == {"user.id": "9"}


def test_logfires_scrubbing_holds_for_the_user(fire: Fire) -> None:
    """Documented: it hides a value that looks like a secret, that of a user's name as well."""

    def handler() -> None:
        set_user({"id": 1, "username": "password-admin"})

    fire.serve("inside", plain_asgi_app(handler))
    user = fire.users()["GET"]
    assert (user["user.id"], user["user.name"]) == ("1", "[Scrubbed due to 'password']")


def test_log_records_name_the_known_user(fire: Fire) -> None:
    """Those of other libraries go through Logfire's logger provider."""
    log = fire.logfire.config.get_logger_provider().get_logger("shop")

    def handler() -> None:
        set_user(ADA)
        log.emit(body="paid")

    fire.serve("inside", plain_asgi_app(handler))
    (record,) = fire.logs.get_finished_logs()
    assert (record.log_record.attributes or {})["user.id"] == "1"
