"""What tests of clients share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


# Read when ddtrace is imported: nothing is to look for an agent.
os.environ.setdefault("DD_INSTRUMENTATION_TELEMETRY_ENABLED", "false")
os.environ.setdefault("DD_REMOTE_CONFIGURATION_ENABLED", "false")


@pytest.fixture
def sentry() -> Iterator[Any]:
    """Initialise the real sentry-sdk with a transport that keeps, and undo that afterwards."""
    from tests.clients.sentry_sdk_kept import initialised

    with initialised() as initialise:
        yield initialise


@pytest.fixture(scope="session")
def newrelic_application() -> Iterator[Any]:
    """Start New Relic's agent in its developer mode, which sends nothing; it starts but once."""
    import newrelic.agent
    from newrelic.core.config import global_settings

    settings = global_settings()
    settings.developer_mode = settings.monitor_mode = settings.enabled = True
    settings.license_key, settings.app_name = "0" * 40, "shop"
    started = newrelic.agent.register_application("shop", timeout=10.0)
    assert started.active
    yield started
    newrelic.agent.shutdown_agent(timeout=5.0)
