"""Secrets within texts, found by the names that stand before them; pure.

A value may itself be JSON, a form, a URL, XML, a header, a line of GraphQL or a `repr()`, encoded
once more or several times: what stands there under a secret name is as secret as a value of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from usercontext.privacy.secret_names import FILTERED, is_secret, is_secret_parameter

__all__ = ["secret_values", "secrets_within", "without_named_values", "without_secrets"]

_Span: TypeAlias = "tuple[int, int]"

_MAX_TEXT = 64 * 1024
_MAX_DEPTH = 8
_MAX_ITEMS = 100

# Without one of these, nothing in a text has a name or the look of a credential.
_SIGNS = re.compile(
    r"[=:>%\\]|eyJ|[_\-][A-Za-z0-9]{10}|AKIA|AIza|[(\[]\s*b?[\"']"
    r"|(?i:bearer|basic|dpop|password|identified|--\w|-u )|[,;\t|][^\n]*\n"
)
# In one go and without a way back, so that long texts take a time in proportion.
_NAME = re.compile(
    r"(?<![\w.$\-])([\w.$@\-]++(?:\[[\w.$\-]*+\])*+)\\*+[\"'`]?+\s*+(=>|->|:=|==?|;s:\d+:|:(?!//))\s*+"
)
_PAIR = re.compile(r"[(\[]\s*b?\\*[\"']([\w.$\-]+)\\*[\"']\s*,\s*(?=b?\\*[\"'])")
_FLAG = re.compile(r"(?<![\w\-])--([\w\-]+)[ \t]+(?=[^\s\-])")
_OF_SQL = re.compile(r"(?i)\b(password|identified by)\s+(?=')")
_TAG = re.compile(r"<([\w.:\-]+)((?:\s[^<>]*)?)(?<!/)>")
_NAMING = re.compile(r"(?:name|key|id|property)\s*=\s*[\"']?([\w.:\[\]\-]+)")
_PASSWORD_FIELD = re.compile(r"(?i)\btype\s*=\s*[\"']?password\b")
_VALUE_ATTRIBUTE = re.compile(r"(?<=\bvalue=)(\"[^\"]*\"?|'[^']*'?|[^\s>]+)")
_PART = re.compile(
    r"(?i)\bname=\\?\"?([\w.\[\]$\-]{1,64})\\?\"?[^\r\n]{0,128}(?:\r?\n[^\r\n]{1,128}){0,4}"
    r"\r?\n\r?\n((?s:.*?))(?=\r?\n--|\Z)"
)
_QUOTED = re.compile(r"(?s)b?(\\*(?:\"\"\"|'''|[\"'`]))(.*?)(?:(?<!\\)\1|\Z)")
_BLOCK = re.compile(r"[|>][+\-]?\d?[ \t]*\r?\n(?:[ \t]+[^\n]*\n?|[ \t]*\r?\n)*")
_OBJECT = re.compile(r"<[^<>]*>?")
_WORD = re.compile(r"[^\s,;&<>(){}\[\]\"'`|]+")
_SCHEME = re.compile(r"(?i)(?:bearer|basic|digest|dpop|negotiate|token|jwt|api-?key|aws4\S*)[ \t]+")
_LINE = re.compile(r"(?:[^\r\n\"'`>]|\"[^\"\r\n]*\")+")
# Whose value has blanks, and names of its own, in it.
_WHOLE_LINES = re.compile(r"(?i)(?:proxy-)?authorization|(?:set-)?cookie2?")
_USER = re.compile(r"(?:://|\bnetloc=['\"])([^\s/?#\"'<>]+)@")
_USER_OF_DATABASE = re.compile(r"\b(?!https?:|wss?:)[A-Za-z][\w+.\-]*://([^\s\"'<>]{1,512})@")
_CREDENTIALS = (
    re.compile(r"(?i)\b(?:bearer|dpop)[ \t]+([\w.~+/=\-]{6,})"),
    re.compile(r"\b(?i:basic)[ \t]+([A-Za-z0-9+/\-_]{8,}={0,2})"),
    re.compile(r"(?<!\S)(?:-u|--user)[ \t]+[\"']?([^\s\"':]+:[^\s\"']+)"),
    re.compile(r"(?<![\w])(eyJ(?:[\w\-+/=]|%2[BbFf]){8,}(?:\.[\w\-]*){0,4})"),
    re.compile(
        r"\b((?:gh[pousr]|github_pat|glpat|sk|sk_live|sk_test|rk_live|whsec|xox[abeprs])[_\-]"
        r"[\w\-]{10,}|AKIA[A-Z0-9]{12,}|AIza[\w\-]{20,}|(?<=hooks\.slack\.com/services/)[\w/]{8,})"
    ),
    re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(.*?)(?:-----END|\Z)"),
)
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_STRONG = re.compile(r"(?i)passw|pwd|secret|passphrase|authorization|api[_-]?key|cookie")
_ENTITY = re.compile(r"&(?:quot|apos|lt|gt|amp|#\d+|#x[0-9A-Fa-f]+);")
_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")


def without_secrets(
    text: str, *, is_secret: Callable[[str], bool] = is_secret, prose: bool = False
) -> str:
    """Return a text with "[Filtered]" in the place of each secret that it names.

    Where the names are encoded, the text as a whole is replaced.

    Args:
        text: anything.
        is_secret: whether what stands under a name is a secret.
        prose: a sentence may have a colon, and what follows is what it is about: only where the
            name is in quotes, or says plainly that it is a secret's, is that a value.
    """
    if _SIGNS.search(text) is None:
        return text
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT]
    if not prose and (changed := _of_json(text, is_secret)) is not None:
        return changed
    spans = _merged(_spans(text, is_secret, prose=prose))
    shown = _replaced(text, spans)
    for decoded in _decoded(text):
        if any(True for _ in _telling(decoded, is_secret, prose=prose, plain=text)):
            return FILTERED
    return shown


def secret_values(text: str) -> Iterator[str]:
    """Yield the secrets that a text names, however deep they stand in it."""
    if _SIGNS.search(text) is None:
        return
    text = text[:_MAX_TEXT]
    for form in (text, *_decoded(text)):
        parsed = _parsed(form)
        if parsed is not None:
            yield from secrets_within(parsed)
        for start, end in _spans(form, is_secret, prose=False):
            yield _unwrapped(form[start:end])


def without_named_values(value: Any) -> Any:
    """Return a JSON value without what stands in it beside a secret's name.

    That is how forms and headers are often listed, `{"name": "password", "value": …}`, and
    arguments of a command: `["--password", …]`.
    """
    if isinstance(value, dict):
        copy = {name: without_named_values(one) for name, one in value.items()}
        if _is_pair(copy):
            copy |= {name: FILTERED for name in copy if str(name).lower() in _VALUES}
        return copy
    if isinstance(value, list):
        before = [None, *value][: len(value)]
        return [
            FILTERED if _is_secret_flag(flag) else without_named_values(one)
            for flag, one in zip(before, value, strict=True)
        ]
    return value


def _is_secret_flag(value: object) -> bool:
    if not isinstance(value, str):
        return False
    flag = value.strip("'\"")
    return flag[:2] == "--" and "=" not in flag and is_secret(flag)


_NAMES = ("name", "key", "field", "param", "parameter", "property", "variable")
_VALUES = ("value", "values", "val", "content")
_IDENTIFIER = re.compile(r"[\w.\[\]$@:\-]{1,64}")


def _is_pair(mapping: Mapping[Any, Any]) -> bool:
    """Return whether one key of a mapping tells a secret's name, and so another one the secret."""
    return any(
        isinstance(one, str)
        and (one == FILTERED or (_IDENTIFIER.fullmatch(one) is not None and is_secret(one)))
        for name, one in mapping.items()
        if isinstance(name, str) and name.lower() in _NAMES
    )


# -- where they stand --


def _spans(text: str, is_secret: Callable[[str], bool], *, prose: bool) -> Iterator[_Span]:
    if "=" in text or ":" in text or "->" in text:
        yield from _named(text, is_secret, prose=prose)
    if "://" in text or "netloc=" in text:
        for pattern in (_USER, _USER_OF_DATABASE):
            yield from (match.span(1) for match in pattern.finditer(text))
    if ">" in text:
        yield from _of_tags(text, is_secret)
    if "name=" in text:
        parts = _PART.finditer(text)
        yield from (match.span(2) for match in parts if is_secret(match[1]))
    if "\n" in text:
        yield from _of_table(text, is_secret)
    yield from _paired(text, is_secret)
    yield from _credentials(text, prose=prose)


def _paired(text: str, is_secret: Callable[[str], bool]) -> Iterator[_Span]:
    for pattern in (_PAIR, _FLAG, _OF_SQL):
        for match in pattern.finditer(text):
            if pattern is _OF_SQL or is_secret(match[1]):
                yield _value_at(text, match.end(), match[1])


def _named(text: str, is_secret: Callable[[str], bool], *, prose: bool) -> Iterator[_Span]:
    end = 0
    for match in _NAME.finditer(text):
        name, start = match[1], match.end()
        # What stands within a secret goes with it.
        if start < end or start == len(text) or not _names_secret(text, match, is_secret):
            continue
        if prose and not _is_plain_name(text, match):
            continue
        span = _value_at(text, start, name)
        yield span
        end = span[1]


def _names_secret(text: str, match: re.Match[str], is_secret: Callable[[str], bool]) -> bool:
    name = match[1]
    if is_secret(name) or _WHOLE_LINES.fullmatch(name):
        return True
    return text[match.start() - 1 : match.start()] in ("?", "&") and is_secret_parameter(name)


def _is_plain_name(text: str, match: re.Match[str]) -> bool:
    """Return whether a sentence has a name and its value here, rather than a colon of its own."""
    if match[2] != ":":
        return True
    is_quoted = text[match.end(1) : match.end(1) + 1] in ("'", '"', "\\")
    return is_quoted or _STRONG.search(match[1]) is not None


def _value_at(text: str, start: int, name: str) -> _Span:
    """Return where a value ends that begins here."""
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        return quoted.span()
    first = text[start : start + 1]
    if first in _CLOSING and first:
        return start, _end_of_container(text, start)
    if first == "<":
        found = _OBJECT.match(text, start)
        return start, start if found is None else found.end()
    block = _BLOCK.match(text, start)
    if block is not None:
        return block.span()
    if _WHOLE_LINES.fullmatch(name) and (line := _LINE.match(text, start)):
        return line.span()
    scheme = _SCHEME.match(text, start)
    word = _WORD.match(text, start if scheme is None else scheme.end())
    return start, start if word is None else word.end()


def _end_of_container(text: str, start: int) -> int:
    """Return where the brackets that open here are closed; strings in them are passed over."""
    waiting: list[str] = []
    at = start
    while at < len(text):
        character = text[at]
        if character in _CLOSING:
            waiting.append(_CLOSING[character])
        elif waiting and character == waiting[-1]:
            waiting.pop()
            if not waiting:
                return at + 1
        elif character in "\"'" and (quoted := _QUOTED.match(text, at)):
            at = max(quoted.end() - 1, at)
        at += 1
    return len(text)


def _of_tags(text: str, is_secret: Callable[[str], bool]) -> Iterator[_Span]:
    end = 0
    for match in _TAG.finditer(text):
        name, attributes = match[1], match[2]
        if match.start() < end:
            continue
        naming = _NAMING.search(attributes)
        named = is_secret(name) or (naming is not None and is_secret(naming[1]))
        if not named and _PASSWORD_FIELD.search(attributes) is None:
            continue
        end = text.find(f"</{name}", match.end())
        end = len(text) if end < 0 else end
        yield match.end(), end
        value = _VALUE_ATTRIBUTE.search(text, match.start(2), match.end(2))
        if value is not None:
            yield value.span()


_COLUMN = re.compile(r"[ \ufeff]*(\"?)([A-Za-z_][\w .\-]{0,63})\1[ ]*")


def _of_table(text: str, is_secret: Callable[[str], bool]) -> Iterator[_Span]:
    """Yield the cells below the secret names in the first line of a table, such as CSV."""
    start = len(text) - len(text.lstrip("\ufeff\r\n "))
    head = text[start:].partition("\n")[0].rstrip("\r")
    for delimiter in ",;\t|":
        columns = [_COLUMN.fullmatch(name) for name in head.split(delimiter)]
        if len(columns) > 1 and all(columns):
            secret = {at for at, one in enumerate(columns) if one and is_secret(one[2])}
            if secret:
                yield from _cells(text, start + len(head), delimiter, secret)
            return


def _cells(text: str, at: int, delimiter: str, columns: set[int]) -> Iterator[_Span]:
    cell = re.compile(rf'[ ]*(?:"(?:[^"]|"")*"?|[^{re.escape(delimiter)}\r\n]*)')
    number = 0
    while at < len(text):
        if text[at] in "\r\n":
            number, at = 0, at + 1
            if at < len(text) and text[at] in "\r\n":
                continue
        elif text[at] == delimiter:
            number, at = number + 1, at + 1
        else:
            at += 1
            continue
        found = cell.match(text, at)
        end = at if found is None else found.end()
        if number in columns:
            yield at, end
        at = end


def _credentials(text: str, *, prose: bool) -> Iterator[_Span]:
    for number, pattern in enumerate(_CREDENTIALS):
        for match in pattern.finditer(text):
            if number == 0 and prose and _is_word(match[1]):
                continue
            if number != 1 or _is_basic(match[1]):
                yield match.span(1)


def _is_word(token: str) -> bool:
    return len(token) < 20 and token.isalpha() and token[1:].islower()


def _is_basic(token: str) -> bool:
    from base64 import b64decode

    try:
        return b":" in b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    except ValueError:
        return False


def _merged(spans: Iterator[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _replaced(text: str, spans: list[_Span]) -> str:
    if not spans:
        return text
    shown: list[str] = []
    at = 0
    for start, end in spans:
        shown += (text[at:start], FILTERED)
        at = end
    return "".join((*shown, text[at:]))


# -- encoded once more --


def _decoded(text: str) -> Iterator[str]:
    """Yield what a text says once its escapes are undone: of URLs, HTML, JSON; several times."""
    seen = {text}
    for _ in range(3):
        plain = text
        if "%" in plain:
            from urllib.parse import unquote_plus

            plain = unquote_plus(plain, "utf-8", "replace")
        if "&" in plain and _ENTITY.search(plain):
            from html import unescape

            plain = unescape(plain)
        if "\\" in plain:
            plain = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), plain)
        if plain in seen:
            return
        yield plain
        seen.add(plain)
        text = plain


def _telling(
    decoded: str, is_secret: Callable[[str], bool], *, prose: bool, plain: str
) -> Iterator[str]:
    """Yield the secrets of a decoded text that nothing tells of in the text as it was."""
    known = {_unwrapped(plain[a:b]) for a, b in _spans(plain, is_secret, prose=prose)}
    parsed = None if prose else _parsed(decoded)
    if parsed is not None:
        yield from (value for value in secrets_within(parsed) if value not in known)
    for start, end in _spans(decoded, is_secret, prose=prose):
        value = _unwrapped(decoded[start:end])
        if value and FILTERED not in value and not any(value in one for one in known):
            yield value


def _unwrapped(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    return value.strip() if quoted is None else quoted[2]


# -- JSON --


def _parsed(text: str) -> Any:
    """Return what a JSON text of an object, an array or a text says; None of anything else."""
    stripped = text.lstrip("\ufeff \t\r\n")
    if stripped[:1] not in ("{", "[", '"'):
        return None
    import json

    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        return None


def _of_json(text: str, is_secret: Callable[[str], bool]) -> str | None:
    parsed = _parsed(text)
    if parsed is None:
        return None
    filtered = _filtered(parsed, is_secret, 0)
    if filtered == parsed:
        return text
    import json

    return json.dumps(filtered, ensure_ascii=False)


def _filtered(value: Any, is_secret: Callable[[str], bool], depth: int) -> Any:
    if isinstance(value, str):
        return without_secrets(value, is_secret=is_secret) if depth < _MAX_DEPTH else FILTERED
    if isinstance(value, (dict, list)) and depth >= _MAX_DEPTH:
        return FILTERED
    if isinstance(value, dict):
        return without_named_values({
            name: FILTERED if is_secret(name) else _filtered(one, is_secret, depth + 1)
            for name, one in value.items()
        })  # fmt: skip
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and is_secret(value[0]):
            return [value[0], FILTERED]
        return [_filtered(one, is_secret, depth + 1) for one in value]
    return value


def secrets_within(value: object) -> Iterator[str]:
    """Yield the texts and numbers under secret names in a JSON value, and in its texts."""
    return _values(value, 0, secret=False)


def _values(value: object, depth: int, *, secret: bool) -> Iterator[str]:
    if isinstance(value, str):
        if secret:
            yield str.__str__(value)
        if depth < _MAX_DEPTH:
            yield from secret_values(value)
    elif depth >= _MAX_DEPTH:
        return
    elif isinstance(value, (Mapping, list, tuple)):
        parts = _parts_of_mapping(value) if isinstance(value, Mapping) else _parts_of_list(value)
        for one, is_named in parts:
            yield from _values(one, depth + 1, secret=secret or is_named)
    elif secret and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _parts_of_mapping(value: Mapping[Any, Any]) -> Iterator[tuple[object, bool]]:
    """Yield what a mapping holds, and whether its name, or the pair that it is, says a secret."""
    is_pair = _is_pair(value)
    for name, one in list(value.items())[:_MAX_ITEMS]:
        is_named = isinstance(name, str) and is_secret(name)
        yield one, is_named or (is_pair and str(name).lower() in _VALUES)


def _parts_of_list(value: Sequence[Any]) -> Iterator[tuple[object, bool]]:
    """Yield what a list holds, and whether it is the second of a pair whose first is a name."""
    is_pair = len(value) == 2 and isinstance(value[0], str) and is_secret(value[0])
    for at, one in enumerate(value[:_MAX_ITEMS]):
        yield one, is_pair and at == 1
