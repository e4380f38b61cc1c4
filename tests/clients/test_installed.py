"""A library that is installed, and not as a client needs it: what is said is true, and mends it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from usercontext import clients
from usercontext.exceptions import MissingDependencyError

# Of each client: its class, the distribution, the extra, and a part of the library that it needs.
CLIENTS = {
    "bugsnag": ("BugsnagClient", "bugsnag", "bugsnag", "bugsnag.configuration"),
    "ddtrace": ("DdtraceClient", "ddtrace", "ddtrace", "ddtrace._trace.processor"),
    "elasticapm": ("ElasticapmClient", "elastic-apm", "elasticapm", "elasticapm.traces"),
    "newrelic": ("NewrelicClient", "newrelic", "newrelic", "newrelic.agent"),
    "opentelemetry": (
        "OpenTelemetryClient",
        "opentelemetry-sdk",
        "opentelemetry",
        "opentelemetry.sdk._logs",
    ),
    "posthog": ("PosthogClient", "posthog", "posthog", "posthog.contexts"),
    "rollbar": ("RollbarClient", "rollbar", "rollbar", "rollbar.lib.events"),
    "scout": ("ScoutClient", "scout-apm", "scout", "scout_apm.core.tracked_request"),
    "sentry_sdk": ("SentrySdkClient", "sentry-sdk", "sentry-sdk", "sentry_sdk.integrations.wsgi"),
    "xray": ("XRayClient", "aws-xray-sdk", "xray", "aws_xray_sdk.core.models.facade_segment"),
}


def error_without(part: str, client: str, patch: pytest.MonkeyPatch) -> MissingDependencyError:
    """Return what building a client raises where a part of its library has moved."""
    pytest.importorskip(part.partition(".")[0])
    outer, _, name = part.rpartition(".")
    patch.delattr(import_module(outer), name, raising=False)
    patch.setitem(sys.modules, part, None)
    with pytest.raises(MissingDependencyError) as caught:
        getattr(import_module(f"usercontext.clients.{client}"), CLIENTS[client][0])()
    return caught.value


@pytest.mark.parametrize("client", CLIENTS)
def test_a_part_that_moved_is_named(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which version is there and what that one lacks, and keeps the cause."""
    name, package, extra, part = CLIENTS[client]
    error = error_without(part, client, monkeypatch)
    found = version(package)
    assert f"{name} needs {package}: {package} {found} is installed" in str(error)
    assert "not installed" not in str(error)
    assert part.rpartition(".")[2] in str(error)
    assert f'pip install "usercontext[{extra}]" "{package}!={found}"' in str(error)
    assert isinstance(error.__cause__, ImportError)


def test_supported_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the extra asks for."""
    requirements = ["structlog>=24.1; extra == 'structlog'", "ddtrace>=3.0; extra == 'ddtrace'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)
    error = error_without("ddtrace._trace.processor", "ddtrace", monkeypatch)
    assert "Supported is ddtrace>=3.0: install what is missing" in str(error)


def test_what_is_absent_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package itself the extra is what mends it."""
    monkeypatch.setattr("importlib.metadata.distribution", _absent)
    error = error_without("ddtrace._trace.processor", "ddtrace", monkeypatch)
    assert str(error) == (
        "DdtraceClient needs ddtrace, which is not installed: "
        'run `pip install "usercontext[ddtrace]"`'
    )


def _absent(name: str) -> None:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_one_place_says_what_is_missing() -> None:
    """No client has words of its own for an import that fails."""
    files = Path(clients.__file__).parent.glob("*.py")
    saying = [one.name for one in files if "except ImportError" in one.read_text("utf-8")]
    assert saying == []
