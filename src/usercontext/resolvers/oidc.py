"""The user that OpenID Connect left in the session, as Authlib's recipes keep it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext import event_loop
from usercontext.core.following import NOT_YET
from usercontext.exceptions import ConfigurationError
from usercontext.resolvers._claims import checked_claims, user_of_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OidcSession"]


class OidcSession:
    """Resolve the user by the userinfo in the session: `session["user"] = token["userinfo"]`.

    It reads the session where a report needs the user, and leaves no trace in it: it is neither
    written nor counted as accessed, so that no response varies by cookie because of a report.
    Where there is no session yet, the question stays open.

    Args:
        key: where the userinfo stands in the session.
        claims: the user's fields, each with its claim; by default id, username, email and name
            from `sub`, `preferred_username`, `email` and `name`. An email whose `email_verified`
            is false is left out.
        session: finds the session of a request, or None; by default the one of Starlette, Django,
            Flask, and others that keep it in the ASGI scope.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        key: str = "user",
        *,
        claims: Mapping[str, str] | None = None,
        session: Callable[[Any], Any] | None = None,
    ) -> None:
        if session is not None and not callable(session):
            raise ConfigurationError(
                "session must be a function that finds the session of a request, not "
                f"{type(session).__name__}"
            )
        self._key = _checked_key(key)
        self._claims = checked_claims(claims)
        self._find_session = _session_of if session is None else session

    def __call__(self, request: Any) -> object:
        """Return the user of a request; NOT_YET where the session cannot be read here."""
        session = self._find_session(request)
        if session is None:
            return NOT_YET
        found = _peek(session, self._key)
        return NOT_YET if found is NOT_YET else user_of_claims(found, self._claims)

    def held(self, source: Any, request: Any) -> object:
        """Return what stands in the session now, as far as it is loaded: a login is followed."""
        if self._find_session is not _session_of:
            return NOT_YET  # a function of the app's own may ask somebody
        found = source if request is None else request
        return NOT_YET if found is None else _held_in(found, self._key)


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            f'key must be a key of the session, such as "user", not {key!r:.80}'
        )
    return key


def _session_of(request: Any) -> Any:
    """Return the session of a framework's request, or of a scope."""
    if "session" in getattr(request, "__dict__", ()):  # Django
        return request.session
    scope = request if isinstance(request, dict) else getattr(request, "scope", {})
    found = scope.get("session")
    return _flasks_session() if found is None else found


def _held_in(found: Any, key: str) -> object:
    session = _session_of(found)
    loaded = session if isinstance(session, dict) else _loaded(session)
    return NOT_YET if loaded is None else dict.get(loaded, key)


def _flasks_session() -> Any:
    """Return Flask's session; Werkzeug's request, which a resolver gets, does not have it."""
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return None
    context = vars(flask.globals.request_ctx._get_current_object())
    # `flask.session` would mark it as accessed (since Flask 3.1.3).
    return context.get("_session", context.get("session"))


def _loaded(session: Any) -> Any:
    """Return the dict of a session of Django's that has been loaded."""
    return getattr(session, "__dict__", {}).get("_session_cache")


def _peek(session: Any, key: str) -> object:
    """Read a session without marking it as accessed, as its own methods do."""
    if isinstance(session, dict):
        return dict.get(session, key)
    loaded = _loaded(session)
    if loaded is not None:
        return loaded.get(key)
    if not hasattr(session, "accessed"):
        return session.get(key)
    if event_loop.is_running():
        # Django would refuse to load it: there is a query in it.
        return NOT_YET
    accessed = session.accessed
    try:
        return session.get(key)
    finally:
        session.accessed = accessed
