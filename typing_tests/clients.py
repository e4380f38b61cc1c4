"""Every reporting client is one, and so is what an app writes, checked by type checkers alone."""

from __future__ import annotations

from typing import Any, assert_type

import usercontext
from usercontext.clients.base import BaseClient
from usercontext.clients.bugsnag import BugsnagClient
from usercontext.clients.ddtrace import DdtraceClient
from usercontext.clients.elasticapm import ElasticapmClient
from usercontext.clients.honeybadger import HoneybadgerClient
from usercontext.clients.logging import LoggingClient
from usercontext.clients.loguru import LoguruClient
from usercontext.clients.newrelic import NewrelicClient
from usercontext.clients.opentelemetry import OpenTelemetryClient
from usercontext.clients.posthog import PosthogClient
from usercontext.clients.pybrake import PybrakeClient
from usercontext.clients.raygun import RaygunClient
from usercontext.clients.rollbar import RollbarClient
from usercontext.clients.scout import ScoutClient
from usercontext.clients.sentry_sdk import SentrySdkClient
from usercontext.clients.structlog import StructlogClient
from usercontext.clients.xray import XRayClient
from usercontext.sentry import SentryClient, read_reports
from usercontext.testing import RecordingClient, acting_as, client_conformance, reset
from usercontext.types import Event, ReportingClient
from usercontext.user import User

# The notifier, or sender, of a library, whether or not that one is installed here.
library: Any = None


class Names(BaseClient):
    """A client of an app's own."""

    def set_user(self, user: User | None, /) -> None:
        """Take the user."""


ready: list[ReportingClient] = [
    BugsnagClient(),
    DdtraceClient(),
    ElasticapmClient(),
    HoneybadgerClient(),
    LoggingClient(resolve=True),
    LoguruClient(),
    Names(),
    NewrelicClient(),
    OpenTelemetryClient(),
    PosthogClient(),
    PybrakeClient(library),
    RaygunClient(library),
    RollbarClient(),
    ScoutClient(),
    SentrySdkClient(),
    StructlogClient(),
    XRayClient(),
]
usercontext.init(None, clients=ready)
usercontext.init(None, clients=["structlog"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
usercontext.init(client=SentryClient("https://key@sentry.example/1"))

for report in read_reports("reports.db"):
    assert_type(report, Event)

with acting_as({"id": 7}):
    reset()
assert_type(RecordingClient().users, list[dict[str, Any] | None])
client_conformance(Names, report=lambda: None, users=list)
client_conformance(Names(), report=print, users=list)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
