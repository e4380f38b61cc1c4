"""Names the user in the traces of Phoenix, and of whatever else reads OpenInference."""

from __future__ import annotations

from typing import ClassVar

from usercontext.clients.llm import LlmTraces

__all__ = ["PhoenixClient"]


class PhoenixClient(LlmTraces):
    """Makes the current user the `user.id` of OpenInference's traces: of Phoenix and of Arize.

    Every span that starts in a request has its user: the id, else the username, else the e-mail
    address. It follows tasks, and threads by `bind()`. What the app says with `using_user(...)`
    wins.

    An `OpenTelemetryClient` on the same provider does so already, with all fields.

    Args:
        resolve: ask a sync resolver when a span starts; False: only take a user who is known.
        tracer_provider: what `phoenix.otel.register(...)` returns; by default the global one, which
            may be set after `init()`.

    Raises:
        MissingDependencyError: opentelemetry-sdk is not installed.

    .. versionadded:: 0.1.0
    """

    attribute: ClassVar[str] = "user.id"
