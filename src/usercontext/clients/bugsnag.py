"""Names the user in what bugsnag sends, by a callback."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import address_of, cleaned_environ, cleaned_headers, record_of
from usercontext.core.record import KEY, current
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["BugsnagClient"]


class BugsnagClient(BaseClient):
    """Makes ours the user of every event.

    Inside a request ours is the whole truth: the address that bugsnag's WSGI middleware takes for
    a user id, and what `configure_request(user=...)` was given, are replaced, and removed where
    the user is nobody. A user without a name is shown by its username.

    What it cannot do: sessions, which bugsnag counts itself, name nobody.

    Raises:
        MissingDependencyError: bugsnag is not installed.
    """

    def __init__(self) -> None:
        with importing("bugsnag", "bugsnag", purpose="BugsnagClient"):
            import bugsnag
            from bugsnag.configuration import RequestConfiguration
        self._bugsnag: Any = bugsnag
        self._configuration: Any = RequestConfiguration

    def setup(self, get_user: GetUser, /) -> None:
        """Add the callback; bugsnag's own middlewares run before it."""

        def name_user(event: Any) -> None:
            with harmless("bugsnag event", "an event of bugsnag went out without its user"):
                record = record_of(event.original_error)
                if record is None:
                    return
                event.user = _bugsnags(get_user(event.original_error))
                _clean_metadata(event.metadata, record)

        self._bugsnag.before_notify(name_user)

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


def _bugsnags(user: dict[str, Any] | None) -> dict[str, Any]:
    if user is None:
        return {}
    if "name" not in user and "username" in user:
        user["name"] = user["username"]
    return user


def _clean_metadata(metadata: dict[str, Any], record: RequestRecord) -> None:
    """Replace the address that bugsnag took from the first X-Forwarded-For, and the peer's."""
    request, environ = metadata.get("request"), metadata.get("environment")
    if isinstance(environ, dict):
        # Over ASGI it is the whole scope, whose headers are in the request's as well.
        environ = {name: environ[name] for name in environ if name not in ("headers", KEY)}
        metadata["environment"] = cleaned_environ(environ, record)
    if not isinstance(request, dict):
        return
    metadata["request"] = request = dict(request)
    if isinstance(request.get("headers"), dict):
        request["headers"] = cleaned_headers(request["headers"], record)
    if "clientIp" in request:
        request["clientIp"] = address_of(record)
