"""What the modules of several frameworks do in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usercontext.core.context import user_of
from usercontext.core.lifecycle import is_open
from usercontext.core.record import KEY, RequestRecord, current, found_in
from usercontext.exceptions import ConfigurationError
from usercontext.user import FIELDS

__all__ = [
    "check_app",
    "check_first",
    "check_waiting",
    "find_current",
    "identity_of",
    "no_app",
    "open_record_in",
    "record_in",
]


def check_app(app: object, kind: type[Any] | tuple[type[Any], ...], takes: str, hint: str) -> None:
    """Refuse what is not an app of the framework.

    Args:
        app: what `UserContext` was given.
        kind: the framework's class of apps.
        takes: the same in words.
        hint: what to write instead.

    Raises:
        ConfigurationError: as said.
    """
    if not isinstance(app, kind):
        raise ConfigurationError(f"UserContext takes {takes}, not {type(app).__name__}: {hint}")


def check_first(found: object, *, app: str = "this app", hint: str = "") -> None:
    """Refuse a second `UserContext` of an app: two could disagree about its users.

    Args:
        found: whether there is one.
        app: what to call the app.
        hint: where there may be another.

    Raises:
        ConfigurationError: as said.
    """
    if found:
        more = f"; {hint}" if hint else ""
        raise ConfigurationError(
            f"{app} has a UserContext already: keep one, and give it all options{more}"
        )


def check_waiting(has_started: object, *, app: str = "the app", hint: str) -> None:
    """Refuse an app that has started: what is around its requests is fixed by then.

    Raises:
        ConfigurationError: as said.
    """
    if has_started:
        raise ConfigurationError(f"{app} has started, and its middlewares are fixed: {hint}")


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand where the app will be: the middleware is configured before there is one."""


def record_in(source: Mapping[Any, Any], key: Any = KEY) -> RequestRecord | None:
    """Return the record that stands in a scope, an environ or what else a framework keeps."""
    if key is KEY:
        return found_in(source)
    found = source.get(key)
    return found if isinstance(found, RequestRecord) else None


def open_record_in(source: Mapping[Any, Any], key: Any = KEY) -> RequestRecord | None:
    """Return the record of a request that goes on."""
    found = record_in(source, key)
    return found if is_open(found) else None


def find_current() -> None:
    """Ask a ready resolver while its framework holds the user, as it will not any more later."""
    record = current()
    if record is not None and record.settings.held is not None:
        user_of(record, resolve=False)


def identity_of(user: object) -> object:
    """Return the user that a framework found, cut to what names them.

    Of an object `User.of` reads no more than that anyway. A mapping would be reported whole,
    and what a framework keeps may well hold the hash of a password.
    """
    if isinstance(user, Mapping):
        return {field: user[field] for field in FIELDS if field in user}
    return user
