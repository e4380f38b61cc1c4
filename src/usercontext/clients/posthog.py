"""Names the user in what posthog captures, by its before_send hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from usercontext.clients.error_texts import hide_spoken
from usercontext.clients.fields import checked_fields, identifier, renamed
from usercontext.clients.hooks import Chained
from usercontext.clients.payload import PayloadClient
from usercontext.core.record import current
from usercontext.optional import importing
from usercontext.source import headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from usercontext.core.record import RequestRecord
    from usercontext.source import Source
    from usercontext.types import GetUser

__all__ = ["FIELDS", "PosthogClient"]

#: The user's fields, and the properties of an event that hold them beside the distinct id.
FIELDS: Final[Mapping[str, str]] = {
    "username": "user_name",
    "email": "user_email",
    "name": "user_full_name",
}

_PERSONLESS: Final = "$process_person_profile"
_SYSTEM: Final = "$python_runtime"
_CLAIMED: Final = "x-posthog-distinct-id"


class PosthogClient(PayloadClient):
    """Makes ours the person of every event that names none, and our address its `$ip`.

    The distinct id is the user's id, else the username, else the email. One that the app gave to
    `capture()` or `identify_context()` wins whole: our fields are not blended with it. One that
    the browser sent in `X-POSTHOG-DISTINCT-ID`, which PostHog's own middlewares believe, does not
    win over a user. Nothing of a person's profile is written.

    What it cannot do: a PostHog client has one `before_send`. The one set before ours still runs,
    and runs after it; one that is set later replaces ours. `set()`, `set_once()` and feature flags
    do not get that far: they need a distinct id. An error that is captured when its request is
    over must be captured inside of its `except` block.

    Args:
        client: the `posthog.Posthog` that the app captures with; by default the module's,
            as in `posthog.capture()`.
        fields: the user's fields to add to an event, each with its property; by default `FIELDS`.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: posthog is not installed.
    """

    lost: ClassVar[tuple[str, str]] = (
        "posthog event",
        "an event of posthog went out without its user",
    )

    def __init__(self, client: Any = None, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._fields = checked_fields(fields, FIELDS)
        with importing("posthog", "posthog", purpose="PosthogClient"):
            import posthog
            from posthog.contexts import get_context_distinct_id
        self._posthog: Any = posthog
        self._id_of_context: Callable[[], str | None] = get_context_distinct_id
        self._client = client

    def hook(self) -> None:
        """Put the hook before the one that is set."""
        # What the module is told, it tells its client at each call.
        target = self._posthog if self._client is None else self._client
        target.before_send = Chained(self.fill, target.before_send)

    def request_scope(self, get_user: GetUser, /) -> AbstractContextManager[object]:
        """Give the request a context of its own: tasks share what their parent has made."""
        del get_user
        scope: AbstractContextManager[object] = self._posthog.new_context(
            fresh=True, capture_exceptions=False
        )
        return scope

    def write(self, event: dict[str, Any], user: dict[str, Any] | None) -> None:
        """Replace the address of an event, and name whose it is where the app has not."""
        event["properties"] = properties = dict(event.get("properties") or {})
        # PostHog's middlewares take it from the first X-Forwarded-For, which anyone can write.
        properties.pop("$ip", None)
        properties.update(renamed(user, {"ip_address": "$ip"}))
        distinct_id = identifier(user)
        if distinct_id is None:
            return
        if _is_made_up(properties) or self._is_claimed(event):
            event["distinct_id"] = distinct_id
            properties.pop(_PERSONLESS, None)
        named = event.get("distinct_id") == distinct_id
        if named and not any(name in properties for name in self._fields.values()):
            properties.update(renamed(user, self._fields))

    def hide(self, event: dict[str, Any], record: RequestRecord | None, error: object) -> None:
        """Replace what texts of errors must not tell."""
        if "$exception_list" in (event.get("properties") or {}):
            event["properties"] = properties = dict(event["properties"])
            hide_spoken(properties, record, error, ("$exception_list",))

    def _is_claimed(self, event: dict[str, Any]) -> bool:
        """Return whether the id is on PostHog's context because the browser sent it."""
        given = event.get("distinct_id")
        if given is None or given != self._id_of_context():
            return False
        record = current()
        # Outside of our middleware PostHog's own are all that can have put it there.
        return record is None or given == _claimed_id(record.root.source or {})


def _is_made_up(properties: dict[str, Any]) -> bool:
    """Return whether PostHog made up the distinct id, as it was given none.

    It then marks the event as nobody's, behind what it collects of the system. An app that marks
    an event itself does so before, and means it.
    """
    if properties.get(_PERSONLESS) is not False:
        return False
    names = list(properties)
    return _SYSTEM in names[: names.index(_PERSONLESS)]


def _claimed_id(source: Source) -> str | None:
    """Return the distinct id that the header of a scope or environ claims."""
    found = headers(source).get(_CLAIMED)
    return None if found is None else found.strip()
