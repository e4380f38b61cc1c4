"""What tools that watch language models know of a user: one text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.fields import identifier
from usercontext.clients.opentelemetry import OpenTelemetryClient
from usercontext.core.context import pull_user
from usercontext.privacy import hash_id
from usercontext.user import identity_in

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LlmTraces", "safety_identifier"]


class LlmTraces(OpenTelemetryClient):
    """Names the user in the traces of a tool that is built on OpenTelemetry, by one text.

    It is the id, else the username, else the e-mail address. An attribute that the app gives a
    span itself wins.

    Args:
        resolve: see `OpenTelemetryClient`.
        tracer_provider: where the span processor is added; by default the global provider, which
            may be set after `init()`.

    Raises:
        MissingDependencyError: opentelemetry-sdk is not installed.
    """

    #: The attribute that the tool reads.
    attribute: ClassVar[str] = "user.id"

    def __init__(self, *, resolve: bool = True, tracer_provider: Any = None) -> None:
        super().__init__(
            fields={"id": self.attribute}, resolve=resolve, tracer_provider=tracer_provider
        )

    def name(self, span: Any, user: Mapping[str, Any] | None) -> None:
        """Write the one attribute, and remove it where we wrote it for another user."""
        found = identifier(user)
        super().name(span, None if found is None else {"id": found})


def safety_identifier(*, key: bytes | str) -> str | None:
    """Return a pseudonym of the current user for who serves the model; None for nobody.

    `client.responses.create(..., safety_identifier=safety_identifier(key=KEY) or omit)` of OpenAI,
    and `metadata={"user_id": safety_identifier(key=KEY)}` of Anthropic: they tell by it who abuses
    their model, and need not know who it is. It is a keyed hash of the user's identity, the same in
    every request and process with the same key: 40 hexadecimal digits. A user of an address alone,
    and one who is withheld by `set_reporting(False)`, has none.

    Args:
        key: at least 16 secret bytes, which stay the same.

    Raises:
        ConfigurationError: the key is missing or too short.

    .. versionadded:: 0.1.0
    """
    fields = pull_user() or {}
    named = identity_in({name: fields.get(name) for name in ("id", "username", "email")})
    pseudonym = hash_id(named or "", key=key)  # a key that cannot be used is said to nobody, too
    return None if named is None else pseudonym
