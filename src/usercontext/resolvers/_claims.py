"""What claims about a person say who it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from usercontext.checks import renames

__all__ = ["CLAIMS", "checked_claims", "user_of_claims"]

#: The user's fields, and the standard claims that tell them (OpenID Connect Core 1.0, 5.1).
CLAIMS: Final[Mapping[str, str]] = {
    "id": "sub",
    "username": "preferred_username",
    "email": "email",
    "name": "name",
}

# Some providers say it in a string.
_UNVERIFIED: Final = (False, "false", "False")


def checked_claims(claims: object) -> dict[str, str]:
    """Return a copy of a map of fields to claims, or raise the ConfigurationError that mends it."""
    if claims is None:
        return dict(CLAIMS)
    return renames("claims", claims, "names of claims", '{"id": "sub"}')


def user_of_claims(claims: object, fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the user that claims tell; None where they tell nobody.

    An email that its provider has not verified may be anybody's, and is left out.
    """
    if not isinstance(claims, Mapping):
        return None
    user = {field: claims[name] for field, name in fields.items() if claims.get(name) is not None}
    if claims.get("email_verified", True) in _UNVERIFIED:
        user.pop("email", None)
    for field in ("id", "username", "email", "name"):
        if field in user and not _is_name(user[field]):
            del user[field]
    return user or None


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""
