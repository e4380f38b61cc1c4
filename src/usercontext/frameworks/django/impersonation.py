"""Who acts in another user's name, by django-hijack or django-loginas, as the session has it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["impersonator_of", "mark_of", "may_impersonate"]

_HIJACK: Final = "hijack_history"


@cache
def _loginas() -> str:
    return getattr(settings, "LOGINAS_FROM_USER_SESSION_FLAG", "loginas_from_user")


@cache
def may_impersonate() -> bool:
    """Return whether an app is installed that lets somebody act in another user's name."""
    return any(map(apps.is_installed, ("hijack", "loginas")))


def _session_of(request: Any) -> Mapping[str, Any]:
    """Return the session of a request as far as it is loaded already."""
    session = vars(request).get("session")
    return {} if session is None else vars(session).get("_session_cache") or {}


def mark_of(request: Any) -> str | None:
    """Return the id of who acts, as the session of a request has it; None if it says nothing."""
    session = _session_of(request)
    if not session:
        return None
    history = session.get(_HIJACK)
    if history:
        # The first of them is who sits there, whomever they have taken over since.
        return str(history[0])
    signed = session.get(_loginas())
    # The id, when that was, and the signature; of the session itself the server is sure.
    return None if signed is None else str(signed).rsplit(":", 2)[0]


def impersonator_of(request: Any, user: Any) -> str | None:
    """Return the id of who acts in a user's name; None where the user acts in person."""
    mark = mark_of(request)
    if mark is None:
        return None
    # A token beside the session authenticates a user that nobody impersonates.
    pk = str(getattr(user, "pk", ""))
    return mark if _session_of(request).get(SESSION_KEY) == pk != mark else None
