"""A frame's variables as a report may show them: bounded, filtered, and never raising."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from usercontext.extra_values import NO_JSON, Copier, Limits, safe_str
from usercontext.privacy.error_texts import safe_error_text
from usercontext.privacy.secret_names import FILTERED, is_secret
from usercontext.privacy.secret_texts import without_named_values, without_secrets

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["describe_locals"]

_MAX_VARIABLES = 40
_MAX_CHARACTERS = 512
_MAX_SEARCHED = 4 * _MAX_CHARACTERS
_SEQUENCES = (list, tuple, set, frozenset)

#: Names under which the address of a client stands, which nobody asked for here.
_ADDRESS = re.compile(
    r"forwarded|cookie|(remote|client|viewer|external)[-_]?(addr|ip|host)|[-_]ip(v[46])?\Z"
    r"|\A(client|peer)\Z|client_?ip|socket_?ip|\Aip(_?addr(ess)?)?\Z",
    re.IGNORECASE,
)


def describe_locals(frame: FrameType) -> dict[str, Any]:
    """Return the variables of a frame: names to strings, lists and dicts of strings."""
    try:
        variables = dict(frame.f_locals)
    except Exception:  # noqa: BLE001  # a class body's namespace may be the app's own mapping
        return {}
    # A module's own, such as __builtins__, tell nothing.
    names = [name for name in variables if not name.startswith("__")][:_MAX_VARIABLES]
    copy = Copier(VARIABLES).copy
    return {
        name: _withheld(name) or without_named_values(copy(variables[name], VARIABLES.depth))
        for name in names
    }


def _describe(value: Any) -> Any:
    """Return the text of a value, or `NO_JSON` to have what is in it described."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return _describe_scalar(value)
    # Exactly these types: a subclass may do anything when it is read.
    if type(value) is dict:
        if "wsgi.input" in value:
            return "<WSGI environ>"
        return "<ASGI scope>" if "asgi" in value and "type" in value else NO_JSON
    return NO_JSON if type(value) in _SEQUENCES else _describe_object(value)


def _withheld(name: Any) -> str | None:
    return FILTERED if _is_withheld(name) else None


def _is_withheld(name: object) -> bool:
    if isinstance(name, bytes):
        name = name[:_MAX_CHARACTERS].decode("latin-1")
    text = safe_str(name, _MAX_CHARACTERS)
    return is_secret(text) or _ADDRESS.search(text) is not None


def _describe_scalar(value: object) -> str:
    try:
        text = repr(_without_secrets(value) if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001  # an int too long for repr, or a subclass's own repr
        return f"<{type(value).__name__}>"
    return safe_str(text, _MAX_CHARACTERS)


def _without_secrets(value: str | bytes) -> str | bytes:
    """Return the beginning of a text without the secrets that it names.

    It is cut before the secrets are looked for, so that a long one takes no longer, and once
    more behind them: of what is cut in two, neither half is known for a secret.
    """
    value = value[:_MAX_SEARCHED]
    if isinstance(value, str):
        return without_secrets(value, is_secret=_is_withheld)[:_MAX_CHARACTERS]
    text = value.decode("latin-1")
    shown = without_secrets(text, is_secret=_is_withheld)
    return (value if shown is text else shown.encode("latin-1", "replace"))[:_MAX_CHARACTERS]


def _describe_object(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, BaseException):
        # Its `repr()` has all that it was made of: of UnicodeDecodeError the whole text.
        return safe_str(f"<{kind}: {safe_error_text(value)}>", _MAX_CHARACTERS)
    if isinstance(value, Mapping):
        return f"<{kind}>"  # Headers and the like, whose repr may show all of them.
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001
        return f"<{kind}: __repr__ raised {type(error).__name__}>"
    text = without_secrets(safe_str(text, _MAX_SEARCHED), is_secret=_is_withheld)
    return safe_str(text, _MAX_CHARACTERS)


#: Of a frame, all of its variables together: the caller of a capture waits for them.
VARIABLES = Limits(
    depth=3,
    keys=21,
    items=21,
    text=4 * _MAX_CHARACTERS,  # in bytes; of keys, as values are described already
    size=32 * 1024,
    each=64,
    cut="…",
    tells_more=True,
    sequences=_SEQUENCES,
    mappings=lambda value: type(value) is dict,
    describe=_describe,
    unusable=_describe_object,
    withheld=_withheld,
)
