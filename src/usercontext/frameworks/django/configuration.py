"""The setting `USERCONTEXT`: read, checked, and its resolver imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from usercontext.core.options import checked
from usercontext.core.settings import Settings
from usercontext.exceptions import ConfigurationError

__all__ = ["read_options"]

_EXAMPLE = 'write USERCONTEXT = {"resolver": "shop.users.find_user"}'


def read_options() -> dict[str, Any]:
    """Return the options of the setting, ready for `Settings`.

    Raises:
        ConfigurationError: the setting is not a dict, or one of its keys is wrong; the message
            names the key and the fix.
    """
    given = getattr(settings, "USERCONTEXT", None) or {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ConfigurationError(f"settings.USERCONTEXT must be a dict, not {kind}: {_EXAMPLE}")
    options = {name: _checked(name, value) for name, value in given.items()}
    _check_together(options)
    return options


def _checked(name: str, value: object) -> object:
    if name == "resolver" and isinstance(value, str):
        value = _imported(value)
    try:
        checked({name: value})
    except ConfigurationError as error:
        raise ConfigurationError(f'settings.USERCONTEXT["{name}"]: {error}') from None
    return value


def _check_together(options: dict[str, Any]) -> None:
    """Check what one option says of another: a scrub rule that hashes needs a key."""
    try:
        Settings(**{**options, "clients": None})
    except ConfigurationError as error:
        raise ConfigurationError(f"settings.USERCONTEXT: {error}") from None


def _imported(path: str) -> object:
    try:
        return import_string(path)
    except ImportError as error:
        raise ConfigurationError(
            f'settings.USERCONTEXT["resolver"]: {path!r} cannot be imported ({error}): write the '
            'dotted path of a function, such as "shop.users.find_user"'
        ) from error
