"""Asking has its price, and its traces: a request whose reports only peek asks nobody.

A resolver may read a session, which marks it as accessed and the response as varying by cookie.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.serving import BOTH, serve
from usercontext import RequestData, get_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usercontext.types import ReportingClient

    Peeking = tuple[ReportingClient, Callable[[], object]]


def of_logging(taken: list[Any]) -> Peeking:
    """A filter of a handler."""
    from usercontext.clients.logging import LoggingClient

    log = logging.Logger("shop")  # noqa: LOG001 - known to nobody else
    handler = logging.Handler()
    handler.emit = taken.append  # type: ignore[method-assign]
    log.addHandler(handler)
    return LoggingClient([handler]), lambda: log.error("x")


def of_structlog(taken: list[Any]) -> Peeking:
    """A processor."""
    structlog: Any = pytest.importorskip("structlog")
    from usercontext.clients.structlog import StructlogClient

    def keep(_logger: object, _method: str, event: Any) -> Any:
        taken.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    return StructlogClient(), lambda: structlog.get_logger().error("x")


def of_loguru(taken: list[Any]) -> Peeking:
    """A patcher."""
    logger: Any = pytest.importorskip("loguru").logger
    from usercontext.clients.loguru import LoguruClient

    logger.remove()
    logger.add(taken.append)
    return LoguruClient(), lambda: logger.error("x")


def of_spans(taken: list[Any]) -> Peeking:
    """A span processor that was told not to ask."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from usercontext.clients.opentelemetry import OpenTelemetryClient

    class Keep(SpanProcessor):
        def on_end(self, span: Any) -> None:
            taken.append(span)

    provider = TracerProvider()
    provider.add_span_processor(Keep())

    def report() -> None:
        # It ends before the response starts, when the user would be asked for.
        provider.get_tracer("shop").start_span("x").end()

    return OpenTelemetryClient(tracer_provider=provider, resolve=False), report


def of_log_records(taken: list[Any]) -> Peeking:
    """A log record processor."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor

    from usercontext.clients.opentelemetry import OpenTelemetryClient

    class Keep(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            taken.append(log_record)

        def shutdown(self) -> None:
            """Hold nothing."""

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Keep())
    log = provider.get_logger("shop")
    return OpenTelemetryClient(logger_provider=provider), lambda: log.emit(LogRecord(body="x"))


PEEKING = [of_logging, of_structlog, of_loguru, of_spans, of_log_records]


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    """Undo what the libraries are configured to."""
    yield
    for name, undo in (
        ("structlog", lambda module: module.reset_defaults()),
        ("loguru", lambda module: module.logger.remove()),
    ):
        undo(pytest.importorskip(name))
    pytest.importorskip("loguru").logger._core.patcher = None


@BOTH
@pytest.mark.parametrize("make", PEEKING)
@pytest.mark.usefixtures("_nothing_left")
def test_who_only_peeks_asks_nobody(interface: str, make: Any) -> None:
    """A request may log as much as it likes: its resolver is not called."""
    calls: list[object] = []
    taken: list[Any] = []
    client, report = make(taken)

    def handler() -> None:
        report()
        get_user(resolve=False)

    with_ip = RequestData(include_ip=True)
    serve(interface, handler, client, resolver=calls.append, request_data=with_ip)
    assert (len(taken), calls) == (1, [])


# In an interpreter of its own: what clients install in their libraries stays there.
ALL_ON = """
import importlib, sys
from tests.clients.serving import serve

clients, calls = [], []
for name in sys.argv[1:]:
    module, _, kind = name.partition(":")
    try:
        clients.append(getattr(importlib.import_module(f"usercontext.clients.{module}"), kind)())
    except ImportError:
        continue
for interface in ("asgi", "wsgi"):
    serve(interface, lambda: None, *clients, resolver=calls.append)
print(len(clients), calls)
"""
CLIENTS = [
    "bugsnag:BugsnagClient",
    "ddtrace:DdtraceClient",
    "elasticapm:ElasticapmClient",
    "honeybadger:HoneybadgerClient",
    "logging:LoggingClient",
    "loguru:LoguruClient",
    "newrelic:NewrelicClient",
    "opentelemetry:OpenTelemetryClient",
    "posthog:PosthogClient",
    "rollbar:RollbarClient",
    "scout:ScoutClient",
    "sentry_sdk:SentrySdkClient",
    "structlog:StructlogClient",
    "xray:XRayClient",
]


def test_a_request_that_reports_nothing_asks_nobody() -> None:
    """That clients are on, and their libraries installed, is not a reason to ask."""
    pytest.importorskip("starlette")
    pytest.importorskip("werkzeug")
    done = subprocess.run(
        [sys.executable, "-c", ALL_ON, *CLIENTS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, calls = done.stdout.rpartition("\n")[0].rpartition("\n")[2].partition(" ")
    assert (int(count) >= 1, calls) == (True, "[]")
