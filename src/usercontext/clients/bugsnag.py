"""Names the user in what bugsnag sends, by a callback."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.collected import Places, cleaned_environ
from usercontext.clients.error_texts import replacer_of
from usercontext.clients.fields import renamed
from usercontext.clients.payload import PayloadClient
from usercontext.core.record import KEY, current
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["BugsnagClient"]


class BugsnagClient(PayloadClient):
    """Makes ours the user of every event.

    Inside a request ours is the whole truth: the address that bugsnag's WSGI middleware takes for
    a user id, and what `configure_request(user=...)` was given, are replaced, and removed where
    the user is nobody. A user without a name is shown by its username.

    What it cannot do: sessions, which bugsnag counts itself, name nobody.

    Raises:
        MissingDependencyError: bugsnag is not installed.
    """

    lost: ClassVar[tuple[str, str]] = (
        "bugsnag event",
        "an event of bugsnag went out without its user",
    )
    places: ClassVar[Places] = Places(address="clientIp")

    def __init__(self) -> None:
        super().__init__()
        with importing("bugsnag", "bugsnag", purpose="BugsnagClient"):
            import bugsnag
            from bugsnag.configuration import RequestConfiguration
        self._bugsnag: Any = bugsnag
        self._configuration: Any = RequestConfiguration

    def hook(self) -> None:
        """Add the callback; bugsnag's own middlewares run before it."""
        self._bugsnag.before_notify(self.fill)

    def error_of(self, event: Any) -> object:
        """Return what was reported."""
        return event.original_error

    def write(self, event: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of an event."""
        event.user = renamed(user, {"username": "name"}) | (user or {})

    def clean(self, event: Any, record: RequestRecord) -> None:
        """Replace the address that bugsnag took from the first X-Forwarded-For, and the peer's."""
        environ = event.metadata.get("environment")
        if isinstance(environ, dict):
            # Over ASGI it is the whole scope, whose headers are in the request's as well.
            environ = {name: environ[name] for name in environ if name not in ("headers", KEY)}
            event.metadata["environment"] = cleaned_environ(environ, record)
        super().clean(event.metadata, record)

    def hide(self, event: Any, record: RequestRecord | None, error: object) -> None:
        """Replace what texts of errors must not tell."""
        replace = replacer_of(record, error)
        if replace is None:
            return
        for one in event.errors:
            one.error_message = replace(one.error_message)

    @contextmanager
    def request_scope(self, get_user: GetUser, /) -> Iterator[None]:
        """Give the request a configuration of its own, unless bugsnag's middleware did.

        The one that there is may be another request's: tasks share what their parent has made.
        """
        del get_user
        shared = self._configuration.get_instance()
        record = current()
        source = None if record is None else record.source
        if source is not None and (
            getattr(shared, "wsgi_environ", None) is source
            or getattr(shared, "asgi_scope", None) is source
        ):
            yield
            return
        own = self._configuration()
        if record is not None and record.source is None:
            # A job is a part of what it stands in: of a task, or of a request.
            vars(own).update(vars(shared), user={})
        self._configuration.set_instance(own)
        try:
            yield
        finally:
            self._configuration.set_instance(shared)
