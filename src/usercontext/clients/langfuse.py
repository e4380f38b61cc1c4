"""Names the user in the traces of Langfuse."""

from __future__ import annotations

from typing import ClassVar

from usercontext.clients.llm import LlmTraces

__all__ = ["LangfuseClient"]


class LangfuseClient(LlmTraces):
    """Makes the current user the `user_id` of Langfuse's traces.

    Every observation that starts in a request has its user: the id, else the username, else the
    e-mail address. It follows tasks, and threads by `bind()`. What `propagate_attributes(user_id=)`
    says in the app wins. Nothing goes into baggage.

    An `OpenTelemetryClient` on the same provider does so already, with all fields.

    Args:
        resolve: ask a sync resolver when a span starts; False: only take a user who is known.
        tracer_provider: what `Langfuse(tracer_provider=...)` has; by default the global one, which
            may be set after `init()`.

    Raises:
        MissingDependencyError: opentelemetry-sdk is not installed.

    .. versionadded:: 0.1.0
    """

    attribute: ClassVar[str] = "user.id"
