"""Bounded copies of data that a client sent, with secrets and hidden addresses filtered; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from usercontext.extra_values import Limits, bounded, kind_of, safe_str
from usercontext.privacy.secret_names import FILTERED, is_secret
from usercontext.privacy.secret_texts import without_named_values, without_secrets

__all__ = ["BODY", "copied", "parsed"]

_MAX_ITEMS = 100
_MAX_NAME = 256
_MAX_PARSED = 64 * 1024
_MAX_ENCODED = 3
# Names as forms encode them, before the first of which nothing stands; no blank is left plain.
_FORM = re.compile(r"[\w.\-+*%\[\]$@:]+=[^\s&;<]*(?:&(?:[\w.\-+*%\[\]$@:]+(?:=[^\s&;<]*)?)?)*")


def _unusable(value: Any) -> str:
    """Name a value: a model's own text may hold anything."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return f"<{kind_of(value)}>"


def _withheld(name: Any) -> str | None:
    if type(name) is not str:
        name = name.decode("latin-1") if isinstance(name, bytes) else safe_str(name, _MAX_NAME)
    return FILTERED if is_secret(name[:_MAX_NAME]) else None


BODY = Limits(
    depth=6,
    keys=_MAX_ITEMS,
    items=_MAX_ITEMS,
    text=2048,
    size=32 * 1024,
    cut="...",
    mappings=lambda value: isinstance(value, Mapping),
    unusable=_unusable,
    withheld=_withheld,
)


def copied(value: object, *, hides: Callable[[str], bool]) -> Any:
    """Copy a request's data as plain JSON values, each cut marked with "...".

    Values under secret names, and texts that `hides` is true of, become "[Filtered]"; so do
    secrets that a text names itself. A text that is a form or JSON is read as such first; any
    other is withheld whole, as nobody can say which part of it is secret.
    """

    def shown(text: str) -> str:
        if hides(text[:_MAX_PARSED]):
            return FILTERED
        return without_secrets(text[:_MAX_PARSED])

    return without_named_values(bounded(parsed(value), BODY, shown=shown))


def parsed(value: object) -> object:
    """Return what a form or JSON says; "[Filtered]" for any other text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[: _MAX_PARSED + 1]).decode("utf-8", "replace")
    if not isinstance(value, str):
        return value
    if not value:
        return value
    if len(value) > _MAX_PARSED:
        # Half of a document cannot be parsed, so its secrets could not be found.
        return FILTERED
    return _from_form(value) if _FORM.fullmatch(value) else _from_json(value)


def _from_json(text: str) -> object:
    import json

    # A text of JSON may hold JSON: whoever encodes twice sends that.
    for _ in range(_MAX_ENCODED):
        try:
            found = json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            return FILTERED
        if not isinstance(found, str):
            return found
        text = found
    return FILTERED


def _from_form(text: str) -> object:
    from urllib.parse import parse_qsl

    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_ITEMS)
    except ValueError:
        return FILTERED
    return dict(pairs)
