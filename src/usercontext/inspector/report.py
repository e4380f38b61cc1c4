"""What is shown of a report: read out of an event of any Sentry SDK, whatever stands in it; pure.

Events come from other programs, so nothing is taken for granted: what is missing, or of another
kind than it should be, is left out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from usercontext.user import FIELDS, IDENTITY_FIELDS, identity_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "LEVELS",
    "AddressTrace",
    "Frame",
    "RaisedException",
    "SourceLine",
    "Withheld",
    "address_trace",
    "client_address",
    "cut",
    "exceptions",
    "has_user",
    "identity",
    "innermost_frame",
    "level",
    "mapping",
    "named_by",
    "place",
    "problem",
    "request_parts",
    "time_of",
    "title",
    "user_of",
    "user_parts",
    "username",
    "visible",
    "withheld",
]

#: From the least to the worst.
LEVELS = ("debug", "info", "warning", "error", "fatal")

_MAX_EXCEPTIONS = 50
_MAX_FRAMES = 250
_MAX_VARIABLES = 100
_MAX_TEXT = 8192
_MAX_WITHHELD = 200
_MAX_DEPTH = 16
_RELATIONS = {
    "__cause__": "the cause",
    "__context__": "raised while handling this",
}


class SourceLine(NamedTuple):
    """A line of source code around a frame's."""

    number: int | None
    text: str
    is_current: bool


class Frame(NamedTuple):
    """A call in a traceback."""

    file: str
    function: str
    line: int | None
    in_app: bool
    source: list[SourceLine]
    variables: list[tuple[str, str]]


class RaisedException(NamedTuple):
    """An exception of a report, with its frames from the outermost to the innermost."""

    kind: str
    text: str
    module: str
    #: What it is to the exception that was reported; empty for that one itself.
    relation: str
    handled: bool | None
    frames: list[Frame]


class AddressTrace(NamedTuple):
    """How the client's address was found, as the report says."""

    source: str
    header: str
    hops: int
    reason: str
    is_included: bool
    is_anonymized: bool


class Withheld(NamedTuple):
    """A part of the request that the report leaves out or hides, and what decided so."""

    what: str
    rule: str


# -- the event as a whole --


def mapping(of: object, key: str) -> dict[str, Any]:
    """Return the mapping that stands under a key, or an empty one."""
    value = of.get(key) if isinstance(of, dict) else None
    return value if isinstance(value, dict) else {}


def time_of(event: Mapping[str, Any]) -> float | None:
    """Return when an event happened, in seconds since 1970: SDKs write a number or a text."""
    value = event.get("timestamp")
    if isinstance(value, str):
        value = _parsed_time(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        return None
    return float(value)


def _parsed_time(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def level(event: Mapping[str, Any]) -> str:
    """Return how bad it is; an SDK that says nothing means an error."""
    found = event.get("level")
    return found if isinstance(found, str) and found in LEVELS else "error"


def title(event: Mapping[str, Any]) -> str:
    """Return in one line what happened; empty if the event does not say."""
    last = _last_exception(event)
    if last is not None:
        return f"{_text(last.get('type')) or 'Error'}: {_text(last.get('value'))}"
    return _message(event)


def place(event: Mapping[str, Any]) -> str:
    """Return where it happened: the transaction, else the URL."""
    return _text(event.get("transaction")) or _text(mapping(event, "request").get("url"))


def problem(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return what reports of the same problem share: a kind, and the innermost frame of the app.

    Without a traceback that is the message, as it was before values were put into it.
    """
    last = _last_exception(event)
    if last is None:
        template = _text(mapping(event, "logentry").get("message")) or _message(event)
        return "message", cut(template, 200)
    return cut(_text(last.get("type")) or "Error", 200), cut(innermost_frame(event), 300)


def innermost_frame(event: Mapping[str, Any]) -> str:
    """Return module and function of the innermost frame of the app; of any, if it has none."""
    last = _last_exception(event)
    frames = [] if last is None else list(_frames_of(last))
    of_app = [frame for frame in frames if frame.get("in_app") is True] or frames
    if not of_app:
        return ""
    frame = of_app[-1]
    where = _text(frame.get("module")) or _text(frame.get("filename"))
    return ":".join(filter(None, (where, _text(frame.get("function")))))


def _message(event: Mapping[str, Any]) -> str:
    entry = mapping(event, "logentry")
    return (
        _text(entry.get("formatted")) or _text(entry.get("message")) or _text(event.get("message"))
    )


def _last_exception(event: Mapping[str, Any]) -> dict[str, Any] | None:
    values = list(_exception_values(event))
    return values[-1] if values else None


def _exception_values(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = event.get("exception")
    values = found.get("values") if isinstance(found, dict) else found
    for value in values[-_MAX_EXCEPTIONS:] if isinstance(values, list) else ():
        if isinstance(value, dict):
            yield value


# -- user and address --


def user_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the event's user; none if it names nobody."""
    return mapping(event, "user")


def identity(user: Mapping[str, Any]) -> str:
    """Return what a server would count the user by, such as `id:7`; empty for nobody at all."""
    return identity_in({name: _text(user.get(name)) for name in IDENTITY_FIELDS}) or ""


def has_user(user: Mapping[str, Any]) -> bool:
    """Return whether somebody is named: an address alone tells who made no request."""
    return any(_text(user.get(field)) for field in IDENTITY_FIELDS[:3])


def username(user: Mapping[str, Any]) -> str:
    """Return how people call the user: the username, else the name."""
    return _text(user.get("username")) or _text(user.get("name"))


def named_by(user: Mapping[str, Any], wanted: str) -> bool:
    """Return whether a text is one of the fields that name the user, or the identity."""
    values = [_text(user.get(field)) for field in IDENTITY_FIELDS]
    return (wanted != "" and wanted in values) or wanted == identity(user)


def client_address(event: Mapping[str, Any]) -> str:
    """Return the client's address, of the user or of the request; empty if neither has one."""
    environment = mapping(mapping(event, "request"), "env")
    return _text(user_of(event).get("ip_address")) or _text(environment.get("REMOTE_ADDR"))


def user_parts(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the user's fields as pairs of texts, those that name the user first."""
    user = user_of(event)
    names = [name for name in FIELDS if name in user]
    names += [name for name in user if name not in FIELDS]
    return [(cut(str(name), 100), _shown(user[name])) for name in names[:_MAX_VARIABLES]]


def request_parts(event: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what is reported of the request, in groups: itself, headers, cookies, ..."""
    request = mapping(event, "request")
    plain = ("method", "url", "query_string", "fragment")
    groups = [("", [(name, _shown(request[name])) for name in plain if request.get(name)])]
    for name in ("headers", "cookies", "env", "data"):
        pairs = list(_pairs(request.get(name)))[:_MAX_VARIABLES]
        groups.append((name, pairs))
    return [(name, pairs) for name, pairs in groups if pairs]


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from ((cut(str(name), 200), _shown(item)) for name, item in value.items())
    elif isinstance(value, list) and all(isinstance(i, list) and len(i) == 2 for i in value):
        yield from ((cut(_text(name), 200), _shown(item)) for name, item in value)
    elif value is not None and value != "":
        yield "", _shown(value)


# -- what our own client tells of its decisions --


def _notes(event: Mapping[str, Any]) -> dict[str, Any]:
    return mapping(mapping(event, "contexts"), "usercontext")


def address_trace(event: Mapping[str, Any]) -> AddressTrace | None:
    """Return how the client's address was found; None if the report does not say."""
    notes = mapping(_notes(event), "address")
    source, hops = notes.get("source"), notes.get("hops")
    if source not in ("peer", "header"):
        return None
    return AddressTrace(
        str(source),
        cut(_text(notes.get("header")), 100),
        hops if isinstance(hops, int) and 0 <= hops <= 1000 else 0,
        cut(_text(notes.get("reason")), 40),
        notes.get("included") is True,
        notes.get("anonymized") is True,
    )


def withheld(event: Mapping[str, Any]) -> list[Withheld]:
    """Return what the report leaves out or hides, by which rule; for other SDKs what they hid."""
    notes = _notes(event).get("withheld")
    told = [
        Withheld(cut(_text(note.get("what")), 200), cut(_text(note.get("rule")), 200))
        for note in (notes if isinstance(notes, list) else [])[:_MAX_WITHHELD]
        if isinstance(note, dict)
    ]
    named = {note.what for note in told}
    hidden = [
        Withheld(path, "a secret by its name, or an address")
        for path in _filtered_paths(event, "", _MAX_DEPTH)
        if path not in named
    ]
    return (told + hidden)[:_MAX_WITHHELD]


def _filtered_paths(value: object, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if value == "[Filtered]":
            yield cut(path, 200)
    elif depth and isinstance(value, dict):
        for name, item in value.items():
            yield from _filtered_paths(item, f"{path}.{name}" if path else str(name), depth - 1)
    elif depth and isinstance(value, list):
        for item in value:
            yield from _filtered_paths(item, path, depth - 1)


# -- exceptions --


def exceptions(event: Mapping[str, Any]) -> list[RaisedException]:
    """Return the exception that was reported, then what it came from, one after the other."""
    return [_exception(value) for value in reversed(list(_exception_values(event)))]


def _exception(value: dict[str, Any]) -> RaisedException:
    mechanism = mapping(value, "mechanism")
    handled = mechanism.get("handled")
    return RaisedException(
        _text(value.get("type")) or "Error",
        _text(value.get("value")),
        _text(value.get("module")),
        _relation(mechanism),
        handled if isinstance(handled, bool) else None,
        [_frame(frame) for frame in list(_frames_of(value))[-_MAX_FRAMES:]],
    )


def _relation(mechanism: dict[str, Any]) -> str:
    source = _text(mechanism.get("source"))
    if source.startswith("exceptions["):
        return f"member {source[11:].rstrip(']')} of the group"
    return _RELATIONS.get(source, "chained" if mechanism.get("parent_id") is not None else "")


def _frames_of(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    frames = mapping(value, "stacktrace").get("frames")
    for frame in frames if isinstance(frames, list) else ():
        if isinstance(frame, dict):
            yield frame


def _frame(frame: dict[str, Any]) -> Frame:
    line = frame.get("lineno")
    line = line if isinstance(line, int) and not isinstance(line, bool) else None
    variables = list(mapping(frame, "vars").items())[:_MAX_VARIABLES]
    return Frame(
        _text(frame.get("filename")) or _text(frame.get("abs_path")) or _text(frame.get("module")),
        _text(frame.get("function")),
        line,
        frame.get("in_app") is True,
        list(_source(frame, line)),
        [(cut(str(name), 200), _shown(value)) for name, value in variables],
    )


def _source(frame: dict[str, Any], line: int | None) -> Iterator[SourceLine]:
    current = frame.get("context_line")
    if not isinstance(current, str):
        return
    before, after = _lines(frame.get("pre_context")), _lines(frame.get("post_context"))
    first = None if line is None else line - len(before)
    for at, text in enumerate([*before, current, *after]):
        number = None if first is None else first + at
        yield SourceLine(number, cut(text.rstrip("\r\n"), 1000), at == len(before))


def _lines(value: object) -> list[str]:
    lines = value if isinstance(value, list) else []
    return [line for line in lines if isinstance(line, str)][:20]


# -- texts --


def _text(value: object) -> str:
    """Return a text, or a number as one; nothing of any other kind."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else ""


def _shown(value: object) -> str:
    """Return a value of JSON as a text."""
    if isinstance(value, str):
        return cut(value, _MAX_TEXT)
    import json

    return cut(json.dumps(value, ensure_ascii=False), _MAX_TEXT)


def cut(text: str, width: int) -> str:
    """Return a text of at most so many characters, marked where it was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def visible(text: str) -> str:
    """Return a text whose control characters are shown instead of obeyed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
