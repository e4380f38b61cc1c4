"""The versions of libraries that the clients are tried with; of another one it is said once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from usercontext.diagnostics import warn_once

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TRIED", "Tried", "say_untried"]


class Tried(NamedTuple):
    """A library, and the versions of it that the tests are run with.

    Attributes:
        package: its name on PyPI.
        oldest: what our extra asks for.
        newest: whatever is newer by its first number is untried; below 1.0 by its second.
    """

    package: str
    oldest: str
    newest: str


#: By the module of the client.
TRIED: Final[Mapping[str, Tried]] = {
    "bugsnag": Tried("bugsnag", "4.8", "4.9"),
    "ddtrace": Tried("ddtrace", "3.0", "4.16"),
    "elasticapm": Tried("elastic-apm", "6.15", "6.26"),
    "honeybadger": Tried("honeybadger", "1.1", "1.3"),
    "langfuse": Tried("langfuse", "5.0", "5.0"),
    "loguru": Tried("loguru", "0.7", "0.7"),
    "mlflow": Tried("mlflow-tracing", "3.17", "3.17"),
    "newrelic": Tried("newrelic", "8.8.1", "14.1"),
    "opentelemetry": Tried("opentelemetry-sdk", "1.39", "1.45"),
    "phoenix": Tried("openinference-instrumentation", "0.1.70", "0.1.72"),
    "posthog": Tried("posthog", "7.11", "7.91"),
    "pybrake": Tried("pybrake", "1.10", "1.10"),
    "raygun": Tried("raygun4py", "8.0", "8.0"),
    "rollbar": Tried("rollbar", "1.3", "1.5"),
    "scout": Tried("scout-apm", "3.0", "4.0"),
    "sentry_sdk": Tried("sentry-sdk", "2.54", "3.0"),
    "structlog": Tried("structlog", "24.1", "26.1"),
    "traceloop": Tried("traceloop-sdk", "0.62", "0.62"),
    "xray": Tried("aws-xray-sdk", "2.10", "2.15"),
}


def say_untried(client: type) -> None:
    """Say once of a client of ours that its library's version is outside what was tried.

    Args:
        client: its class, or one that is derived from it.
    """
    for kind in client.__mro__:
        package, _, module = kind.__module__.rpartition(".")
        if package == __name__.rpartition(".")[0] and module in TRIED:
            _say(kind.__qualname__, TRIED[module])
            return


def _say(client: str, tried: Tried) -> None:
    from importlib import metadata  # 20 modules, which only an app with clients needs

    try:
        version = metadata.version(tried.package)
    except metadata.PackageNotFoundError:  # a copy on the path
        return
    numbers, newest = _numbers(version), _numbers(tried.newest)
    counting = 1 if newest[0] else 2
    if _numbers(tried.oldest) <= numbers and numbers[:counting] <= newest[:counting]:
        return
    warn_once(
        f"untried {tried.package}",
        "%s %s is outside of what %s was tried with, %s to %s: it works as far as that version "
        "lets it",
        tried.package,
        version,
        client,
        tried.oldest,
        tried.newest,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at a version's start: of 3.0.0b2 they are 3, 0 and 0."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers) or (0,)
