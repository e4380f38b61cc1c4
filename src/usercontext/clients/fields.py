"""A user's fields under the names that a library knows them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.checks import renames

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["checked_fields", "identifier", "plain", "renamed"]

# A tuple, made once: asked for each field of each span, `str | int | float` costs seven times that.
_PLAIN = (str, int, float)


def checked_fields(fields: object, default: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of a map of fields to names, or raise the ConfigurationError that mends it."""
    return renames("fields", default if fields is None else fields, "names", '{"id": "user_id"}')


def renamed(user: Mapping[str, Any] | None, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a user has, by their names in a library."""
    if user is None:
        return {}
    return {name: user[field] for field, name in fields.items() if field in user}


def plain(user: Mapping[str, Any] | None, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return what `renamed()` has of texts, flags and numbers: traces take nothing else."""
    if user is None:
        return {}
    return {name: user[f] for f, name in fields.items() if isinstance(user.get(f), _PLAIN)}


def identifier(user: Mapping[str, Any] | None) -> str | None:
    """Return the one text that a user is known by, for libraries that take no more."""
    fields = user or {}
    return fields.get("id") or fields.get("username") or fields.get("email")
