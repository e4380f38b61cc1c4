"""Names the user in the traces of OpenLLMetry."""

from __future__ import annotations

from typing import ClassVar

from usercontext.clients.llm import LlmTraces

__all__ = ["TraceloopClient"]


class TraceloopClient(LlmTraces):
    """Makes the current user the association property `user_id` of OpenLLMetry's traces.

    Every span that starts in a request has its user: the id, else the username, else the e-mail
    address. It follows tasks, and threads by `bind()`. What the app says with
    `Traceloop.set_association_properties({"user_id": ...})` wins.

    Args:
        resolve: ask a sync resolver when a span starts; False: only take a user who is known.
        tracer_provider: Traceloop's; by default the global one, which
            may be set after `init()`.

    Raises:
        MissingDependencyError: opentelemetry-sdk is not installed.

    .. versionadded:: 0.1.0
    """

    attribute: ClassVar[str] = "traceloop.association.properties.user_id"
