"""Who a framework's own user is, and nothing else of what the framework keeps about them."""

from __future__ import annotations

from collections.abc import Mapping

from usercontext.user import FIELDS

__all__ = ["identity_of"]


def identity_of(user: object) -> object:
    """Return the user that a framework found, cut to what names them.

    Of an object `User.of` reads no more than that anyway. A mapping would be reported whole,
    and what a framework keeps may well hold the hash of a password.
    """
    if isinstance(user, Mapping):
        return {field: user[field] for field in FIELDS if field in user}
    return user
