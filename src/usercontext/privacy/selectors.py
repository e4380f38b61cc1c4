"""Relay's selectors: which values of an event a scrubbing rule is about; pure.

Syntax and names follow Sentry's documentation, "Advanced Data Scrubbing". A path is matched from
the event's root, without regard to case; `*` is one name and `**` any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn, TypeAlias

from usercontext import checks
from usercontext.exceptions import ConfigurationError

__all__ = ["Path", "Selector", "nearest", "parse_selector"]

Path: TypeAlias = "tuple[str, ...]"
#: Told a path and the value there, says whether the rule is about it.
Matcher: TypeAlias = Callable[[Path, object], bool]


class Selector(NamedTuple):
    """A selector as read.

    Attributes:
        matches: told a path and the value there, says whether the rule is about it.
        roots: the keys of an event below which it can match; None: any.
    """

    matches: Matcher
    roots: frozenset[str] | None


_STACKTRACES = (
    "exception.values.*.stacktrace",
    "exception.*.stacktrace",
    "threads.values.*.stacktrace",
    "stacktrace",
)

#: Where the values of each type stand in an event. `values` is optional in the protocol.
_PLACES: dict[str, tuple[str, ...]] = {
    "breadcrumb": ("breadcrumbs.values.*", "breadcrumbs.*"),
    "contexts": ("contexts",),
    "error": ("exception.values.*", "exception.*"),
    "exception": ("exception.values.*", "exception.*"),
    "extra": ("extra",),
    "frame": tuple(f"{place}.frames.*" for place in _STACKTRACES),
    "http": ("request",),
    "logentry": ("logentry",),
    "message": ("logentry", "message"),
    "request": ("request",),
    "sdk": ("sdk",),
    "server_name": ("server_name",),
    "stacktrace": _STACKTRACES,
    "tags": ("tags",),
    "thread": ("threads.values.*", "threads.*"),
    "transaction": ("transaction",),
    "user": ("user",),
}
_VALUE_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list, tuple),
    "boolean": (bool,),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}

#: The names that a path may go on with. A user has others as well, which are refused only where
#: they look like a slip of these.
_FIELDS = {
    "user": (
        *("id", "username", "email", "ip_address", "name", "data"),
        *("geo", "segment", "sentry_user"),
    ),
    "request": (
        *("method", "url", "query_string", "headers", "cookies", "data", "env"),
        *("fragment", "protocol", "api_target", "inferred_content_type"),
    ),
    "exception": (
        *("type", "value", "module", "mechanism", "stacktrace", "thread_id"),
        *("raw_stacktrace", "values"),
    ),
    "frame": (
        *("vars", "function", "raw_function", "module", "filename", "abs_path", "lineno", "colno"),
        *("context_line", "pre_context", "post_context", "in_app", "package", "platform", "data"),
    ),
    "logentry": ("message", "formatted", "params"),
    "breadcrumb": ("message", "data", "category", "type", "level", "timestamp", "event_id"),
    "stacktrace": ("frames", "registers", "lang"),
    "server_name": (),
    "transaction": (),
}
_SAME_FIELDS = {"http": "request", "error": "exception", "message": "logentry"}
#: What is a text or a number, so that no path goes on below it.
_SCALARS = frozenset({
    ("user", "id"), ("user", "username"), ("user", "email"), ("user", "ip_address"),
    ("user", "name"), ("user", "segment"), ("request", "method"), ("request", "url"),
    ("request", "fragment"), ("exception", "type"), ("exception", "value"),
    ("logentry", "message"), ("logentry", "formatted"), ("breadcrumb", "message"),
})  # fmt: skip
#: What others call a user's fields.
_SLIPS = {
    "address": "ip_address",
    "e-mail": "email",
    "ip": "ip_address",
    "ipaddress": "ip_address",
    "login": "username",
    "mail": "email",
    "user_id": "id",
}
#: The keys of an event.
_ROOTS = frozenset({
    "breadcrumbs", "contexts", "culprit", "debug_meta", "dist", "environment", "errors", "event_id",
    "exception", "extra", "fingerprint", "level", "logentry", "logger", "measurements", "message",
    "modules", "platform", "project", "received", "release", "request", "sdk", "server_name",
    "site", "spans", "stacktrace", "start_timestamp", "tags", "template", "threads", "timestamp",
    "transaction", "transaction_info", "type", "user", "version",
})  # fmt: skip

# Relay reads `&` as `&&`, and `|` as `||`.
_PIECE = re.compile(r"""\s*(?:(&&?|\|\|?|[!()])|((?:'(?:[^']|'')*'|[^\s&|!()'])+))""")
_NAME = re.compile(r"'((?:[^']|'')+)'|([^.']+)")
_UNQUOTED = re.compile(r"[\w-]+|\*\*?")


def parse_selector(text: str, *, spares_structure: bool = True) -> Selector:
    """Read a selector such as `$user.email`, `$request.headers.*` or `$user.** && !$user.id`.

    Args:
        text: the selector.
        spares_structure: let wildcards leave alone what makes an event an event, such as the
            types of exceptions and the lines of frames.

    Raises:
        ConfigurationError: it is none; the text suggests the nearest that is.
    """
    parser = _Parser(text, spares_structure=spares_structure)
    selector = parser.alternatives()
    if parser.pieces:
        parser.refuse("has something left over")
    return selector


class _Parser:
    """Reads pieces off a selector, one level of precedence a method."""

    def __init__(self, text: str, *, spares_structure: bool) -> None:
        self.text = text
        self.spares_structure = spares_structure
        self.pieces: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _PIECE.match(text, at)
            if match is None:
                self.refuse("cannot be read")
            self.pieces.append((match[1] or "", match[2] or ""))
            at = match.end()

    def refuse(self, why: str) -> NoReturn:
        raise ConfigurationError(
            f"scrub: the selector {self.text!r} {why}: write one such as '$user.email', "
            "'$request.headers.*' or '**'"
        )

    def alternatives(self) -> Selector:
        any_of = [self.conjunction()]
        while self.pieces and self.pieces[0][0] in ("||", "|"):
            self.pieces.pop(0)
            any_of.append(self.conjunction())
        return any_of[0] if len(any_of) == 1 else _any_of(any_of)

    def conjunction(self) -> Selector:
        all_of = [self.single()]
        while self.pieces and self.pieces[0][0] in ("&&", "&"):
            self.pieces.pop(0)
            all_of.append(self.single())
        return all_of[0] if len(all_of) == 1 else _all_of(all_of)

    def single(self) -> Selector:
        operator, path = self.pieces.pop(0) if self.pieces else ("", "")
        if operator == "!":
            inner = self.single().matches
            return Selector(lambda path, value: not inner(path, value), None)
        if operator == "(":
            grouped = self.alternatives()
            if not self.pieces or self.pieces.pop(0)[0] != ")":
                self.refuse("lacks a closing bracket")
            return grouped
        if not path:
            self.refuse("ends too soon" if self.text.strip() else "is empty")
        return _path_selector(path, self)


def _any_of(selectors: list[Selector]) -> Selector:
    roots: frozenset[str] = frozenset()
    for selector in selectors:
        if selector.roots is None:
            return Selector(_any_matcher(selectors), None)
        roots |= selector.roots
    return Selector(_any_matcher(selectors), roots)


def _any_matcher(selectors: list[Selector]) -> Matcher:
    return lambda path, value: any(selector.matches(path, value) for selector in selectors)


def _all_of(selectors: list[Selector]) -> Selector:
    roots: frozenset[str] | None = None
    for selector in selectors:
        if selector.roots is not None:
            roots = selector.roots if roots is None else roots & selector.roots
    return Selector(
        lambda path, value: all(selector.matches(path, value) for selector in selectors), roots
    )


def _path_selector(text: str, parser: _Parser) -> Selector:
    names = _names(text, parser)
    first = names[0]
    if not first.startswith("$"):
        _check_root(first, text)
        if first in ("user", "request"):
            _check_field(names, first, text)
        return _glob_selector([names], spares_structure=parser.spares_structure)
    kind = first[1:]
    if kind in _VALUE_TYPES:
        if len(names) > 1:
            parser.refuse(f"goes on after {first!r}, which stands alone")
        return Selector(_type_matcher(kind, spares_structure=parser.spares_structure), None)
    if kind not in _PLACES:
        known = [f"${name}" for name in (*_PLACES, *_VALUE_TYPES)]
        raise ConfigurationError(
            f"scrub: the selector {text!r} begins with {first!r}, which is unknown"
            f"{nearest(first, known)}"
        )
    _check_field(names, kind, text)
    globs = [[*place.split("."), *names[1:]] for place in _PLACES[kind]]
    return _glob_selector(globs, spares_structure=parser.spares_structure)


def _names(text: str, parser: _Parser) -> list[str]:
    names: list[str] = []
    at = 0
    while at <= len(text):
        match = _NAME.match(text, at)
        if match is None:
            parser.refuse("has an empty name")
        name = match[2] if match[1] is None else "'" + match[1].replace("''", "'")
        if match[2] is not None and "*" in name and name not in ("*", "**"):
            parser.refuse(f"has {name!r} in it, and a star stands for whole names only")
        if match[2] is not None and not _UNQUOTED.fullmatch(name.removeprefix("" if at else "$")):
            # Taken as a name, a slip or a type within a path would match nothing, and silently.
            parser.refuse(f"has {name} in it: only in quotes, \"'{name}'\", is that a name")
        names.append(name.lower())
        at = match.end()
        if at < len(text) and text[at] != ".":
            parser.refuse("lacks a dot between names")
        at += 1
    return [name if name in ("*", "**") else name.removeprefix("'") for name in names]


def _check_root(first: str, text: str) -> None:
    """Refuse a path that begins with no key of an event: what matches nothing protects nobody."""
    if first in ("*", "**") or first in _ROOTS:
        return
    field = _SLIPS.get(first, first)
    for kind in ("user", "request"):
        if field in _FIELDS[kind]:
            raise ConfigurationError(
                f"scrub: the selector {text!r} begins with {first!r}, which is not an event's key: "
                f"did you mean '${kind}.{field}'?"
            )
    raise ConfigurationError(
        f"scrub: the selector {text!r} begins with {first!r}, which is not an event's key"
        f"{nearest(first, _ROOTS)}"
    )


def _check_field(names: list[str], kind: str, text: str) -> None:
    """Refuse a path that can match nothing, or looks like a slip of another one."""
    kind = _SAME_FIELDS.get(kind, kind)
    fields = _FIELDS.get(kind)
    if fields is None or len(names) < 2 or names[1] in ("*", "**"):
        return
    name = names[1]
    if name not in fields:
        _refuse_field(name, kind, fields, text)
    if len(names) > 2 and (kind, name) in _SCALARS and set(names[2:]) != {"**"}:
        raise ConfigurationError(
            f"scrub: the selector {text!r} goes on after {name!r}, which is one text: "
            f"write '${kind}.{name}'"
        )


def _refuse_field(name: str, kind: str, fields: tuple[str, ...], text: str) -> None:
    if not fields:
        raise ConfigurationError(
            f"scrub: the selector {text!r} goes on after ${kind}, which is one text: "
            f"write '${kind}'"
        )
    meant = _SLIPS.get(name) if kind == "user" else None
    suggestion = f": did you mean {meant!r}?" if meant else ""
    suggestion = suggestion or nearest(name, fields, cutoff=0.75, listing=kind != "user")
    if suggestion:
        other = f" (For a key of your own write '$user.data.{name}'.)" if kind == "user" else ""
        raise ConfigurationError(f"scrub: the selector {text!r} names {name!r}{suggestion}{other}")


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6, listing: bool = True) -> str:
    """Return ": did you mean …?" for a word that is none of those known."""
    close = checks.nearest(word, known, cutoff)
    if close:
        return f": did you mean {close!r}?"
    return f": write one of {', '.join(sorted(known))}" if listing else ""


def _type_matcher(kind: str, *, spares_structure: bool) -> Matcher:
    types = _VALUE_TYPES[kind]

    def matches(path: Path, value: object) -> bool:
        if not isinstance(value, types) or (kind == "number" and isinstance(value, bool)):
            return False
        return not (spares_structure and _is_structure(path))

    return matches


def _glob_selector(globs: list[list[str]], *, spares_structure: bool) -> Selector:
    is_wild = globs[0][-1] in ("*", "**") and spares_structure

    def matches(path: Path, _value: object) -> bool:
        if not any(_glob_matches(glob, path) for glob in globs):
            return False
        return not (is_wild and _is_structure(path))

    roots = frozenset(glob[0] for glob in globs)
    return Selector(matches, None if roots & {"*", "**"} else roots)


def _glob_matches(glob: list[str], path: Path, start: int = 0, at: int = 0) -> bool:
    for position in range(start, len(glob)):
        name = glob[position]
        if name == "**":
            if position == len(glob) - 1:
                return at < len(path)
            return any(
                _glob_matches(glob, path, position + 1, rest) for rest in range(at, len(path) + 1)
            )
        if at >= len(path) or name not in ("*", path[at]):
            return False
        at += 1
    return at == len(path)


# What makes an event an event. A wildcard is about data, as with Relay, and leaves these alone;
# a rule that names them does not.
_ROOT_STRUCTURE = frozenset({
    "dist", "environment", "event_id", "exception", "breadcrumbs", "fingerprint", "level",
    "logentry", "logger", "modules", "platform", "release", "sdk", "stacktrace", "threads",
    "timestamp", "type", "contexts",
})  # fmt: skip
_FRAME_STRUCTURE = frozenset({
    "abs_path", "colno", "context_line", "filename", "function", "in_app", "lineno", "module",
    "post_context", "pre_context",
})  # fmt: skip
_VALUE_STRUCTURE = frozenset({
    "type", "module", "mechanism", "thread_id", "stacktrace", "timestamp", "category", "level",
    "id", "current", "crashed", "main", "name",
})  # fmt: skip


def _is_structure(path: Path) -> bool:
    if len(path) <= 1:
        return not path or path[0] in _ROOT_STRUCTURE
    root = path[0]
    if root in ("sdk", "modules", "fingerprint"):
        return True
    if root == "request":
        return path == ("request", "method")
    if root == "contexts":
        return len(path) == 2 or path[-1] in ("type", "version", "build", "kernel_version")
    if root in ("exception", "threads", "breadcrumbs", "stacktrace"):
        return _is_structure_of_values(path)
    return False


def _is_structure_of_values(path: Path) -> bool:
    if "frames" in path:
        below = path[path.index("frames") + 1 :]
        return len(below) < 2 or below[1] in _FRAME_STRUCTURE
    below = path[2:] if path[1:2] == ("values",) else path[1:]
    return len(below) < 2 or below[1] in _VALUE_STRUCTURE
