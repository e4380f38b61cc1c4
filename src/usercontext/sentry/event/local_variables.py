"""A frame's variables as a report may show them: bounded, filtered, and never raising."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from usercontext.privacy.secret_names import FILTERED, is_secret
from usercontext.sentry.event.payload import safe_str

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["describe_locals"]

_MAX_VARIABLES = 40
_MAX_ITEMS = 20
_MAX_DEPTH = 3
_MAX_CHARACTERS = 512
# Of a frame, all of its variables together: the caller of a capture waits for them.
_MAX_VALUES = 500
_CUT = "…"

#: Names under which the address of a client stands, which nobody asked for here.
_ADDRESS = re.compile(
    r"forwarded|cookie|(remote|client|viewer|external)[-_]?(addr|ip|host)|[-_]ip(v[46])?\Z"
    r"|\A(client|peer)\Z|client_?ip|socket_?ip|\Aip(_?addr(ess)?)?\Z",
    re.IGNORECASE,
)
#: `password='x'` and `'password': 'x'` inside the repr of an object.
_NAMED_TEXT = re.compile(
    r"""([\w-]+)(['"]?\s*[=:]\s*)"""
    r"""(b?'(?:[^'\\]|\\.)*'?|b?"(?:[^"\\]|\\.)*"?|[^\s,;)}\]]+)"""
)


def describe_locals(frame: FrameType) -> dict[str, Any]:
    """Return the variables of a frame: names to strings, lists and dicts of strings."""
    try:
        variables = dict(frame.f_locals)
    except Exception:  # noqa: BLE001  # a class body's namespace may be the app's own mapping
        return {}
    # A module's own, such as __builtins__, tell nothing.
    names = [name for name in variables if not name.startswith("__")][:_MAX_VARIABLES]
    describe = _Description().of_named
    return {name: describe(name, variables[name], _MAX_DEPTH) for name in names}


class _Description:
    """Describes the variables of one frame, as long as there is room."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        self._room = _MAX_VALUES

    def of_named(self, name: object, value: object, depth: int) -> Any:
        """Return what a value may be shown as that stands under a name."""
        return FILTERED if _is_withheld(name) else self._of(value, depth)

    def _of(self, value: object, depth: int) -> Any:
        self._room -= 1
        if self._room < 0:
            return _CUT
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return _describe_scalar(value)
        # Exactly these types: a subclass may do anything when it is read.
        if type(value) is dict:
            return self._of_dict(value, depth)
        if type(value) in {list, tuple, set, frozenset}:
            return self._of_items(value, depth)
        return _describe_object(value)

    def _of_dict(self, value: dict[Any, Any], depth: int) -> Any:
        if "wsgi.input" in value:
            return "<WSGI environ>"
        if "asgi" in value and "type" in value:
            return "<ASGI scope>"
        if depth <= 0:
            return "{…}"
        described = {
            safe_str(key, _MAX_CHARACTERS): self.of_named(key, item, depth - 1)
            for key, item in self._first(value.items())
        }
        if len(value) > len(described):
            described[_CUT] = f"{len(value) - len(described)} more"
        return described

    def _of_items(self, value: Any, depth: int) -> Any:
        if depth <= 0:
            return "[…]"
        items = self._first(value)
        if _is_withheld_pair(items):
            return [_describe_scalar(items[0]), FILTERED]
        described = [self._of(item, depth - 1) for item in items]
        if len(value) > len(items):
            described.append(f"{_CUT} {len(value) - len(items)} more")
        return described

    def _first(self, items: Any) -> list[Any]:
        # In one step of C, so that no other thread changes them meanwhile.
        return list(islice(items, max(0, min(_MAX_ITEMS, self._room))))


def _is_withheld(name: object) -> bool:
    if isinstance(name, bytes):
        name = name[:_MAX_CHARACTERS].decode("latin-1")
    text = safe_str(name, _MAX_CHARACTERS)
    return is_secret(text) or _ADDRESS.search(text) is not None


def _describe_scalar(value: object) -> str:
    if isinstance(value, str | bytes) and len(value) > _MAX_CHARACTERS:
        value = value[:_MAX_CHARACTERS]
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # an int too long for repr, or a subclass's own repr
        return f"<{type(value).__name__}>"
    return safe_str(text, _MAX_CHARACTERS)


def _is_withheld_pair(items: list[Any]) -> bool:
    """Return whether these are a name and its value, as lists of headers have them."""
    return len(items) == 2 and isinstance(items[0], str | bytes) and _is_withheld(items[0])


def _describe_object(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Mapping):
        return f"<{kind}>"  # Headers and the like, whose repr may show all of them.
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001
        return f"<{kind}: __repr__ raised {type(error).__name__}>"
    text = safe_str(text, 4 * _MAX_CHARACTERS)
    return safe_str(_NAMED_TEXT.sub(_filtered, text), _MAX_CHARACTERS)


def _filtered(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    return f"{name}{between}{FILTERED if _is_withheld(name) else value}"
