"""Every reporting client of ours passes the suite that we offer to others."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.clients import log_fields
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Reports(list[Any]):
    """Whom reports named, in the words of the library, until it is asked."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def users(self) -> list[Any]:
        """Return and forget whom the reports named, in our words."""
        seen = [
            {field: one[name] for field, name in self.names.items() if one.get(name) is not None}
            for one in self
        ]
        self.clear()
        return [user or None for user in seen]


@pytest.mark.parametrize("resolve", [False, True])
def test_logging_conforms(resolve: bool) -> None:
    """A filter on the app's handler."""
    from usercontext.clients.logging import LoggingClient

    reports = Reports(log_fields.FIELDS)
    log = logging.Logger("shop")  # noqa: LOG001 - known to nobody else
    handler = logging.Handler()
    handler.emit = lambda record: reports.append(vars(record))  # type: ignore[method-assign]
    log.addHandler(handler)

    def make_client() -> LoggingClient:
        handler.filters.clear()
        return LoggingClient([handler], resolve=resolve)

    client_conformance(
        make_client, report=lambda: log.info("x"), users=reports.users, resolves=resolve
    )


@pytest.fixture
def structlog() -> Iterator[Any]:
    """Undo what is configured."""
    structlog = pytest.importorskip("structlog")
    yield structlog
    structlog.reset_defaults()


@pytest.mark.parametrize("resolve", [False, True])
def test_structlog_conforms(resolve: bool, structlog: Any) -> None:
    """A processor before the app's last one."""
    from usercontext.clients.structlog import StructlogClient

    reports = Reports(log_fields.FIELDS)

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> Any:
        reports.append(event)
        raise structlog.DropEvent

    def make_client() -> StructlogClient:
        structlog.configure(processors=[keep])
        return StructlogClient(resolve=resolve)

    report = lambda: structlog.get_logger().info("x")  # noqa: E731
    client_conformance(make_client, report=report, users=reports.users, resolves=resolve)


@pytest.mark.parametrize("resolve", [False, True])
def test_loguru_conforms(resolve: bool) -> None:
    """A patcher."""
    logger: Any = pytest.importorskip("loguru").logger
    from usercontext.clients.loguru import LoguruClient

    reports = Reports(log_fields.FIELDS)
    logger.remove()
    sink = logger.add(lambda message: reports.append(message.record["extra"]))

    def make_client() -> LoguruClient:
        logger._core.patcher = None
        return LoguruClient(resolve=resolve)

    client_conformance(
        make_client, report=lambda: logger.info("x"), users=reports.users, resolves=resolve
    )
    logger.remove(sink)
    logger._core.patcher = None


def test_sentry_sdk_conforms() -> None:
    """Event processors, and scopes of each request."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    from usercontext.clients.sentry_sdk import SentrySdkClient

    reports = Reports({field: field for field in ("id", "username", "email", "ip_address", "plan")})
    before = sentry_sdk.get_global_scope().client
    processors = list(sentry_sdk.scope.global_event_processors)

    def keep(event: Any, _hint: object) -> None:
        reports.append(event.get("user") or {})

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        sentry_sdk.init(
            "https://key@sentry.example/1",
            default_integrations=False,
            auto_enabling_integrations=False,
            send_default_pii=True,
            before_send=keep,
        )
    report = lambda: sentry_sdk.capture_message("x")  # noqa: E731
    client_conformance(SentrySdkClient, report=report, users=reports.users)
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(before)
    sentry_sdk.scope.global_event_processors[:] = processors


def test_opentelemetry_conforms() -> None:
    """A span processor."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from usercontext.clients.opentelemetry import FIELDS, OpenTelemetryClient

    reports = Reports(FIELDS)

    class Keep(SpanProcessor):
        def on_end(self, span: Any) -> None:
            reports.append(dict(span.attributes))

    providers: list[Any] = []

    def make_client() -> OpenTelemetryClient:
        providers.append(TracerProvider())
        providers[-1].add_span_processor(Keep())
        return OpenTelemetryClient(tracer_provider=providers[-1])

    def report() -> None:
        with providers[-1].get_tracer("shop").start_as_current_span("x"):
            pass

    client_conformance(make_client, report=report, users=reports.users)
