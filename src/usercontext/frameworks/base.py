"""What the modules of several frameworks do in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usercontext.core.lifecycle import fail, fail_now
from usercontext.core.record import KEY, RequestRecord, current
from usercontext.user import FIELDS

__all__ = ["fail_current", "fail_current_now", "identity_of", "no_app", "record_in"]


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand where the app will be: the middleware is configured before there is one."""


def record_in(source: Mapping[str, Any]) -> RequestRecord | None:
    """Return the record that stands in a scope, an environ or what else a framework keeps."""
    found = source.get(KEY)
    return found if isinstance(found, RequestRecord) else None


async def fail_current(error: object) -> None:
    """Report an error that a framework answers itself, while its request is still there."""
    record = current()
    if record is not None and isinstance(error, Exception):
        await fail(record, error)


def fail_current_now(error: object) -> None:
    """Do what `fail_current` does where nothing can be awaited."""
    record = current()
    if record is not None and isinstance(error, Exception):
        fail_now(record, error)


def identity_of(user: object) -> object:
    """Return the user that a framework found, cut to what names them.

    Of an object `User.of` reads no more than that anyway. A mapping would be reported whole,
    and what a framework keeps may well hold the hash of a password.
    """
    if isinstance(user, Mapping):
        return {field: user[field] for field in FIELDS if field in user}
    return user
