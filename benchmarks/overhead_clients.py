"""The reporting clients of `overhead.py`: each with its own library, which sends nothing.

What a client adds is counted for a request that reports nothing; for the libraries that trace,
also for one inside of an open trace, which is sent anyway: there the user is resolved and handed
over. The resolver returns a ready `User`.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLIENTS", "Client"]


@dataclass(frozen=True, slots=True)
class Client:
    """A reporting client of ours, and how its library is set up.

    Attributes:
        name: its module in `usercontext.clients`.
        distribution: the package that it needs; "" for the standard library.
        make: sets the library up, and makes the client.
        trace: sets the library up and returns what opens a trace, a transaction or a segment
            around a request; None where the library has no such thing.
    """

    name: str
    distribution: str
    make: Callable[[], Any]
    trace: Callable[[], Callable[[], Any]] | None = None


def _logging() -> Any:
    from usercontext.clients.logging import LoggingClient

    return LoggingClient([logging.NullHandler()])


def _structlog() -> Any:
    from usercontext.clients.structlog import StructlogClient

    return StructlogClient()


def _loguru() -> Any:
    from usercontext.clients.loguru import LoguruClient

    return LoguruClient()


def _rollbar() -> Any:
    import rollbar

    from usercontext.clients.rollbar import RollbarClient

    rollbar.init("0" * 32, environment="benchmark", handler="blocking")
    return RollbarClient()


def _bugsnag() -> Any:
    import bugsnag

    from usercontext.clients.bugsnag import BugsnagClient

    bugsnag.configure(api_key="0" * 32, auto_capture_sessions=False, asynchronous=False)
    return BugsnagClient()


def _honeybadger() -> Any:
    from usercontext.clients.honeybadger import HoneybadgerClient

    return HoneybadgerClient()


def _raygun() -> Any:
    from raygun4py.raygunprovider import RaygunSender

    from usercontext.clients.raygun import RaygunClient

    return RaygunClient(RaygunSender("key"))


def _pybrake() -> Any:
    import pybrake

    from usercontext.clients.pybrake import PybrakeClient

    options = {"remote_config": False, "performance_stats": False}
    return PybrakeClient(pybrake.Notifier(project_id=1, project_key="key", **options))


def _posthog() -> Any:
    import posthog

    from usercontext.clients.posthog import PosthogClient

    return PosthogClient(posthog.Posthog("phc_key", send=False))


def _sentry_sdk() -> Any:
    import sentry_sdk

    from usercontext.clients.sentry_sdk import SentrySdkClient

    with warnings.catch_warnings(action="ignore"):
        sentry_sdk.init(
            "http://0123456789abcdef0123456789abcdef@127.0.0.1:9/1",
            auto_session_tracking=False,
            send_default_pii=True,
        )
    return SentrySdkClient()


def _opentelemetry() -> Any:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from usercontext.clients.opentelemetry import OpenTelemetryClient

    trace.set_tracer_provider(TracerProvider())
    return OpenTelemetryClient()


def _trace_opentelemetry() -> Callable[[], Any]:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("benchmark")
    return lambda: tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER)


def _elastic_client() -> Any:
    import elasticapm

    return elasticapm.get_client() or elasticapm.Client(
        service_name="benchmark",
        disable_send=True,
        central_config=False,
        cloud_provider="none",
        metrics_interval="0s",
        instrument=False,
    )


def _elasticapm() -> Any:
    from usercontext.clients.elasticapm import ElasticapmClient

    return ElasticapmClient(_elastic_client())


class _ElasticTransaction:
    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client.begin_transaction("request")

    def __exit__(self, *_: object) -> None:
        self._client.end_transaction("GET /")


def _trace_elasticapm() -> Callable[[], Any]:
    client = _elastic_client()
    return lambda: _ElasticTransaction(client)


def _dd_tracer() -> Any:
    # Read when ddtrace is imported.
    os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
    os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"
    from ddtrace.trace import TraceFilter, tracer

    class Drop(TraceFilter):
        def process_trace(self, trace: Any) -> None:
            """Drop it, as there is no agent."""

    tracer.configure(trace_processors=[Drop()])
    return tracer


def _ddtrace() -> Any:
    from usercontext.clients.ddtrace import DdtraceClient

    _dd_tracer()
    return DdtraceClient()


def _trace_ddtrace() -> Callable[[], Any]:
    tracer = _dd_tracer()
    return lambda: tracer.trace("request")


def _newrelic() -> Any:
    from usercontext.clients.newrelic import NewrelicClient

    return NewrelicClient()


def _trace_newrelic() -> Callable[[], Any]:
    import newrelic.agent
    from newrelic.api.application import Application
    from newrelic.core.config import global_settings

    settings: Any = global_settings()
    settings.enabled = settings.developer_mode = settings.monitor_mode = True
    settings.license_key, settings.app_name = "0" * 40, "benchmark"
    application = newrelic.agent.register_application("benchmark", timeout=60.0)
    Application.record_transaction = lambda *_: None  # type: ignore[method-assign]
    return lambda: newrelic.agent.BackgroundTask(application, "request")


def _recorder() -> Any:
    from aws_xray_sdk.core import xray_recorder
    from aws_xray_sdk.core.context import Context
    from aws_xray_sdk.core.emitters.udp_emitter import UDPEmitter

    class Dropping(UDPEmitter):
        def send_entity(self, _entity: Any) -> None:
            """Drop it, as there is no daemon."""

    xray_recorder.configure(
        sampling=False, service="benchmark", context=Context(context_missing="IGNORE_ERROR")
    )
    xray_recorder.emitter = Dropping()
    return xray_recorder


def _xray() -> Any:
    from usercontext.clients.xray import XRayClient

    return XRayClient(_recorder())


def _trace_xray() -> Callable[[], Any]:
    recorder = _recorder()
    return lambda: recorder.in_segment("request")


def _scout() -> Any:
    from usercontext.clients.scout import ScoutClient

    _silence_scout()
    return ScoutClient()


def _silence_scout() -> None:
    from scout_apm.core.agent.socket import CoreAgentSocketThread
    from scout_apm.core.config import scout_config
    from scout_apm.core.samplers.thread import SamplersThread

    scout_config.set(monitor=True, core_agent_launch=False, core_agent_download=False)
    CoreAgentSocketThread.send = classmethod(lambda *_: None)
    SamplersThread.ensure_started = classmethod(lambda *_: None)


def _trace_scout() -> Callable[[], Any]:
    from scout_apm.api import WebTransaction

    _silence_scout()
    return lambda: WebTransaction("request")


CLIENTS = (
    Client("logging", "", _logging),
    Client("structlog", "structlog", _structlog),
    Client("loguru", "loguru", _loguru),
    Client("raygun", "raygun4py", _raygun),
    Client("pybrake", "pybrake", _pybrake),
    Client("rollbar", "rollbar", _rollbar),
    Client("honeybadger", "honeybadger", _honeybadger),
    Client("bugsnag", "bugsnag", _bugsnag),
    Client("posthog", "posthog", _posthog),
    Client("sentry_sdk", "sentry-sdk", _sentry_sdk),
    Client("opentelemetry", "opentelemetry-sdk", _opentelemetry, _trace_opentelemetry),
    Client("elasticapm", "elastic-apm", _elasticapm, _trace_elasticapm),
    Client("ddtrace", "ddtrace", _ddtrace, _trace_ddtrace),
    Client("newrelic", "newrelic", _newrelic, _trace_newrelic),
    Client("xray", "aws-xray-sdk", _xray, _trace_xray),
    Client("scout", "scout-apm", _scout, _trace_scout),
)
