"""The texts of exceptions without what they quote of their input; pure.

Libraries say in an error what was wrong, and often quote the value as well: what a client posted,
a bound parameter, a URL with its token. Their exceptions are recognised by the names of class and
package, so that nothing is imported for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, TypeAlias

from usercontext.privacy.library_texts import is_of_library, raised_in, without_values
from usercontext.privacy.secret_names import FILTERED
from usercontext.privacy.secret_texts import without_secrets

__all__ = ["read", "retelling", "safe_error_text", "safe_text", "text_of"]

# More than a report shows of any text.
_MAX_TEXT = 16_384
_MAX_ERRORS = 20
_MIN_RETOLD = 6
# A shorter line may be a name alone.
_MIN_LINE = 16
_MAX_BEGINNING = 60
_MAX_DEPTH = 6

#: Says what an exception is about, without its input.
_Tell: TypeAlias = Callable[[Any], str]


def safe_error_text(error: BaseException) -> str:
    """Return what `str(error)` says, without the input that it quotes; never raises."""
    text, make_safe = read(error)
    return make_safe(text)


def read(error: BaseException) -> tuple[str, Callable[[str], str]]:
    """Return a text of an exception, and what makes of it what may be told; never raises.

    Reading takes a moment, and is for where the exception is at hand: the app may go on to change
    it. The rest can be done elsewhere, later.
    """
    kind = type(error)
    if kind.__module__ != "builtins":
        tell = _teller_of(kind)  # type: ignore[arg-type]  # a class is hashable
        if tell is not None:
            return _told(tell, error), str
    return text_of(error)[:_MAX_TEXT], partial(_safe_by, kind, raised_in(error))


def _safe_by(kind: type[BaseException], path: str, text: str) -> str:
    if is_of_library(kind, path):
        return without_values(_safe_reading(text))
    # Python's say where, not what, but for numbers and dates that are read of texts.
    return _safe_reading(text) if issubclass(kind, (ValueError, LookupError)) else safe_text(text)


def _safe_reading(text: str) -> str:
    text = _NO_MEMBER.sub(f"'{FILTERED}'", text)
    return safe_text(_READ.sub(rf"\1'{FILTERED}'", text))


def retelling(error: object, *, tells: bool = True) -> Callable[[str], str]:
    """Return what puts safe texts of an exception, and of those it came from, for their own.

    For texts that others have made of them.

    Args:
        error: an exception; anything else has no text of its own.
        tells: whether the safe text is told, or nothing at all.
    """
    pairs: list[tuple[str, str]] = []
    for one in _with_origins(error):
        raw, safe = text_of(one), safe_error_text(one) if tells else ""
        if raw and raw != safe:
            pairs.append((raw, safe))
        if isinstance(one, UnicodeError):
            # The text that it is about is not in its own, and in a local variable's.
            pairs.append((_represented(one), f"<{type(one).__name__}: {safe}>"))
        for note in _notes(one):
            safe = safe_text(note) if tells else ""
            if note != safe:
                pairs.append((note, safe))
    # The longest first: another one may be a part of it.
    pairs.sort(key=lambda pair: len(pair[0]), reverse=True)
    return lambda text: _retold(text, pairs)


def _with_origins(error: object) -> Iterator[BaseException]:
    """Yield an exception, and those that it came from or is a group of."""
    waiting = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_ERRORS:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting.append(one.__cause__ or (None if one.__suppress_context__ else one.__context__))
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions[:_MAX_ERRORS]


def _represented(error: BaseException) -> str:
    try:
        return str(repr(error))
    except Exception:  # noqa: BLE001
        return ""


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    return [one for one in notes if type(one) is str] if isinstance(notes, list) else []


def _retold(text: str, pairs: list[tuple[str, str]]) -> str:
    for raw, safe in pairs:
        if len(raw) < _MIN_RETOLD and (not raw or text != raw):
            continue  # stands in other texts by chance
        if raw not in text and "\n" in raw:
            text = _without_lines(text, raw, safe)
        text = text.replace(raw, safe)
        # Of a long one others show the beginning.
        at = text.find(raw[:_MAX_BEGINNING]) if len(raw) > _MAX_BEGINNING else -1
        if at >= 0:
            text = text[:at] + safe
    return text


def _without_lines(text: str, raw: str, safe: str) -> str:
    """Replace the lines of a text that are indented elsewhere, as in a group's traceback."""
    told = set(map(str.strip, safe.splitlines()))
    for line in map(str.strip, raw.splitlines()):
        if line not in told and len(line) >= _MIN_LINE:
            text = text.replace(line, FILTERED)
    return text


def text_of(error: BaseException) -> str:
    """Return `str(error)`; never raises."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001
        return f"<unprintable {type(error).__name__}: __str__ raised {type(failure).__name__}>"
    # A subclass of str may have come out, whose methods are the app's.
    return text if type(text) is str else str.__getitem__(text, slice(None))


def _told(tell: _Tell, error: BaseException) -> str:
    try:
        return tell(error)
    except Exception:  # noqa: BLE001  # of another release than those known
        return FILTERED


@lru_cache(256)
def _teller_of(kind: type[BaseException]) -> _Tell | None:
    """Return what tells the exceptions of a class; the app's own subclasses are told likewise."""
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        found = _TELLERS.get((package, base.__name__))
        if found is not None:
            return found
        if package in _DATABASES:
            return _of_database
    return None


# -- what was wrong, and where --


def _names(place: object) -> str:
    """Write a path into data; a key that is not a plain name may be the client's own text."""
    parts = place if isinstance(place, (list, tuple)) else (place,)
    return ".".join(_name(part) for part in parts)


def _name(part: object) -> str:
    text = str(part)
    plain = text.isascii() and text.replace("_", "").replace("-", "").isalnum()
    return text if plain and len(text) <= 64 and not _MIXED.search(text) else "…"


# A number at the end is a part of many a field's name; a number in the middle, or a long one, of
# few.
_MIXED = re.compile(r"\d[A-Za-z]|-\d|\d{6}")


def _listed(count: int, title: object, lines: Iterable[str]) -> str:
    head = f"{count} validation error{'' if count == 1 else 's'} for {title}"
    return "\n".join([head, *lines])


def _of_pydantic(error: Any) -> str:
    title = getattr(error, "title", None) or getattr(error.model, "__name__", "model")
    try:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    except TypeError:  # pydantic 1
        found = error.errors()
    return _listed(len(found), title, _places(found))


def _of_fastapi(error: Any) -> str:
    found = error.errors()
    return _listed(len(found), type(error).__name__, _places(found))


def _places(found: Iterable[Any]) -> Iterator[str]:
    for one in list(found)[:_MAX_ERRORS]:
        if isinstance(one, Mapping):
            yield f"  {_names(one.get('loc', ()))}: {_name(one.get('type', 'invalid'))}"


def _fields(found: Any, depth: int = 0, above: tuple[object, ...] = ()) -> Iterator[str]:
    """Yield where in nested messages something is said, and its code where there is one."""
    if isinstance(found, Mapping) and depth < _MAX_DEPTH:
        for name, inner in list(found.items())[:_MAX_ERRORS]:
            yield from _fields(inner, depth + 1, (*above, name))
        return
    if isinstance(found, list) and depth < _MAX_DEPTH:
        if any(isinstance(one, (Mapping, list)) for one in found):
            for at, inner in enumerate(found[:_MAX_ERRORS]):
                yield from _fields(inner, depth + 1, (*above, at))
            return
        codes = dict.fromkeys(_name(getattr(one, "code", None) or "invalid") for one in found)
        found = ", ".join(codes)
    else:
        found = _name(getattr(found, "code", None) or "invalid")
    yield f"{_names(above)}: {found}" if above else found


def _of_messages(error: Any) -> str:
    return "; ".join(_fields(error.messages))


def _of_detail(error: Any) -> str:
    return "; ".join(_fields(error.detail))


def _of_django(error: Any) -> str:
    if hasattr(error, "error_dict"):
        return "; ".join(_fields({name: list(all_) for name, all_ in error.error_dict.items()}))
    return "; ".join(_fields(list(error.error_list)))


def _of_jsonschema(error: Any) -> str:
    return f"{error.validator} fails at {_names(('data', *error.absolute_path))}"


def _of_fastjsonschema(error: Any) -> str:
    return f"{error.rule} fails at {_names(tuple(error.path))}"


def _of_msgspec(error: Any) -> str:
    return re.sub(r"(?s)(unknown field) `.*`", rf"\1 `{FILTERED}`", _without_quoted(error))


def _of_graphql(error: Any) -> str:
    # Not with the lines of the document, which is the client's.
    text = without_values(_REPRESENTED.sub(rf"\1 {FILTERED}", error.message))
    places = [f"{place.line}:{place.column}" for place in error.locations or ()]
    return f"{text} ({', '.join(places)})" if places else text


def _of_yaml(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return _without_quoted(error.problem or "invalid YAML") + where


def _of_smtp(error: Any) -> str:
    recipients = getattr(error, "recipients", None)
    if isinstance(recipients, Mapping):
        codes = sorted({str(answer[0]) for answer in recipients.values()})
        return f"{len(recipients)} recipients refused: {', '.join(codes)}"
    return f"refused: {error.smtp_code}"


def _of_mongo(error: Any) -> str:
    text = str(error).partition(", full error: ")[0].partition("dup key")[0].strip()
    return without_values(safe_text(text))


def _of_command(error: Any) -> str:
    """Name the program, without the arguments that it was given."""
    command = error.cmd
    first = command if isinstance(command, (str, bytes)) else next(iter(command or ("?",)))
    if isinstance(first, bytes):
        first = first.decode("utf-8", "replace")
    program = str(first).split()[0].rpartition("/")[2] if str(first).split() else "?"
    if hasattr(error, "returncode"):
        return f"Command {_name(program)!r} returned {error.returncode}"
    return f"Command {_name(program)!r} timed out after {error.timeout} seconds"


def _of_date(error: Any) -> str:
    """Tell what `dateutil` says, of which the text is the last argument."""
    said = str(error.args[0]) if error.args else ""
    return said.replace("%s", FILTERED) if "%s" in said else without_values(said)


def _of_open_ended(error: Any) -> str:
    """Tell what is wrong, as far as the colon behind which the rest of a file or line stands."""
    return _without_quoted(str(error).splitlines()[0] if str(error) else "")


# -- databases --

_DATABASES = frozenset({
    "aiomysql", "aiosqlite", "asyncpg", "cx_Oracle", "MySQLdb", "mysql", "oracledb", "peewee",
    "pg8000", "psycopg", "psycopg2", "psycopg2cffi", "pymssql", "pymysql", "pyodbc", "sqlite3",
})  # fmt: skip
_ROW = re.compile(r"(?s)(Failing row contains|contains) \(.*\)")
_LINE = re.compile(r"(?m)^(?:LINE \d+:.*\n?[ \t]*\^?|CONTEXT:.*|QUERY:.*)$")
_LITERAL = re.compile(r"'(?:[^'\\]|''|\\.)*'?")
# What stands behind these is a name of the schema.
_NAMED = re.compile(r"((?:for (?:key|column)|Unknown column|Table|Column) )('[^']*')")
_VALUE_BEHIND = re.compile(r'(?s): "(?:[^"\\]|\\.)*"?')


def _of_database(error: Any) -> str:
    return safe_text(_database_text(str(error)))


def _database_text(text: str) -> str:
    text = _LINE.sub("", _ROW.sub(rf"\1 ({FILTERED})", _KEY.sub(rf"\1({FILTERED})", text)))
    if "'" in text:
        kept = _NAMED.sub(lambda match: match[1] + match[2].replace("'", "\0"), text)
        text = _LITERAL.sub(f"'{FILTERED}'", kept).replace("\0", "'")
    return _VALUE_BEHIND.sub(f': "{FILTERED}"', text).strip()


def _of_sqlalchemy(error: Any) -> str:
    original = getattr(error, "orig", None)
    said = error.args[0] if error.args else ""
    if isinstance(original, BaseException):
        kind = type(original)
        said = f"({kind.__module__}.{kind.__qualname__}) {safe_error_text(original)}"
    else:
        said = _database_text(str(said))
    statement = getattr(error, "statement", None)
    if not isinstance(statement, str):
        return said
    return f"{said}\n[SQL: {_LITERAL.sub('?', statement)}]"


# -- texts, whoever says them --

_KEY = re.compile(
    r"(?s)(Key \([^)\n]{0,500}\)=)\((?:.*?\)(?= (?:already|is|conflicts)|\.?\s*\Z)|.*)"
)
_PARAMETERS = re.compile(r"(?s)\[parameters: (?:.*?\](?=\s*(?:\(Background|\Z))|.*)")
_INPUT = re.compile(r"(?s)input_value=.*?(, input_type=|\Z)")
_INPUT_OF_LIST = re.compile(
    r"(?s)'input': .*?(?=, '(?:ctx|url|type|loc|msg)': |\}\s*(?:,\s*\{|\])|\Z)"
)
_REPRESENTED = re.compile(r"(?s)(got invalid value|cannot represent[^:]*:) .*")
_QUOTED = re.compile(r"(?s)b?'(?:[^'\\]|\\.)*'?|b?\"(?:[^\"\\]|\\.)*\"?")
_URL = re.compile(
    r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?P<user>[^\s/@?#'\"<>]+@)?"
    r"(?P<rest>[^\s?#'\"<>]*)(?P<query>[?#][^\s'\"<>]*)?"
)
_RELATIVE_URL = re.compile(r"(url: ?['\"]?/[^\s?'\"]*)\?[^\s'\")]*")
_GOT = re.compile(
    r"(?s)(but got|got invalid value|Duplicate entry) [b\"'{\[].*?(?=; | for key |\.?\Z)"
)
_CHOICE = re.compile(r"(?s)(Select a valid choice\.) .*?(?= is not one of the available choices)")
_READ = re.compile(
    r"(?s)((?:[Ii]nvalid literal for \w+(?:\(\) with base \d+)?|could not convert string to \w+"
    r"|Invalid isoformat string|unconverted data remains|unknown encoding): |\Atime data )"
    r"(?:b?'(?:[^'\\]|\\.)*'"
    r"|b?\"(?:[^\"\\]|\\.)*\"|.*)(?=\Z| does not (?:match|appear) )"
)
_NO_MEMBER = re.compile(
    r"(?s)\A(?:b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\"|.*)(?= is not a valid )"
)


def safe_text(text: str) -> str:
    """Return a text without what texts of well-known errors quote in it.

    Of URLs the user and the query go; of others, what stands in the place of a value.
    """
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT]
    if "://" in text:
        text = _URL.sub(_safe_url, text)
    if "?" in text and "url:" in text:
        text = _RELATIVE_URL.sub(rf"\1?{FILTERED}", text)
    if ")=(" in text:
        text = _KEY.sub(rf"\1({FILTERED})", text)
    if "[parameters: " in text:
        text = _PARAMETERS.sub(f"[parameters: {FILTERED}]", text)
    if "input" in text:
        text = _INPUT.sub(rf"input_value={FILTERED}\1", text)
        text = _INPUT_OF_LIST.sub(f"'input': {FILTERED}", text)
    if " got " in text or "Duplicate entry" in text:
        text = _GOT.sub(rf"\1 {FILTERED}", text)
    if "Select a valid choice. " in text:
        text = _CHOICE.sub(rf"\1 {FILTERED}", text)
    return without_secrets(text, prose=True)


def _safe_url(match: re.Match[str]) -> str:
    user = f"{FILTERED}@" if match["user"] else ""
    query = match["query"]
    shown = f"{query[0]}{FILTERED}" if query and len(query) > 1 else (query or "")
    return f"{match['scheme']}{user}{match['rest']}{shown}"


def _without_quoted(error: object) -> str:
    """Return a text whose quoted parts are left out."""
    text = str(error)
    return _QUOTED.sub(f"'{FILTERED}'", text) if "'" in text or '"' in text else text


_TELLERS: dict[tuple[str, str], _Tell] = {
    ("pydantic_core", "ValidationError"): _of_pydantic,
    ("pydantic", "ValidationError"): _of_pydantic,
    ("fastapi", "ValidationException"): _of_fastapi,
    ("fastapi", "RequestValidationError"): _of_fastapi,
    ("fastapi", "ResponseValidationError"): _of_fastapi,
    ("fastapi", "WebSocketRequestValidationError"): _of_fastapi,
    ("sqlalchemy", "StatementError"): _of_sqlalchemy,
    ("django", "ValidationError"): _of_django,
    ("django", "Error"): _of_database,
    ("rest_framework", "ValidationError"): _of_detail,
    ("marshmallow", "ValidationError"): _of_messages,
    ("webargs", "ValidationError"): _of_messages,
    ("msgspec", "ValidationError"): _of_msgspec,
    ("jsonschema", "_Error"): _of_jsonschema,
    ("jsonschema", "ValidationError"): _of_jsonschema,
    ("fastjsonschema", "JsonSchemaValueException"): _of_fastjsonschema,
    ("graphql", "GraphQLError"): _of_graphql,
    ("pymongo", "PyMongoError"): _of_mongo,
    ("subprocess", "CalledProcessError"): _of_command,
    ("subprocess", "TimeoutExpired"): _of_command,
    ("dateutil", "ParserError"): _of_date,
    ("configparser", "Error"): _of_open_ended,
    ("wtforms", "ValidationError"): _of_open_ended,
    ("colander", "Invalid"): _of_open_ended,
    ("yaml", "MarkedYAMLError"): _of_yaml,
    ("smtplib", "SMTPRecipientsRefused"): _of_smtp,
    ("smtplib", "SMTPSenderRefused"): _of_smtp,
}
