"""Texts that a library has made: what looks like somebody's value is left out of them; pure.

Nobody knows how all libraries word their errors. What they quote is recognised by where it stands
("got …", "… is not a valid choice") and by its look: a name is made of letters, and a value has
digits among them, or an at sign.
"""

from __future__ import annotations

import os
import re
import sys

from usercontext.privacy.secret_names import FILTERED

__all__ = ["is_of_library", "looks_like_value", "raised_in", "without_values"]

_STANDARD = os.__file__.rpartition(os.sep)[0] + os.sep
_INSTALLED = ("site-packages" + os.sep, "dist-packages" + os.sep)
#: What names parts of the program, and files; never what a client sent as a value.
_OF_PROGRAM = (AttributeError, ImportError, KeyError, NameError, OSError, SyntaxError)

# Libraries whose errors the app raises in their name, or that are raised by compiled code.
_LIBRARIES = frozenset({
    "aiohttp", "anthropic", "arrow", "attr", "attrs", "azure", "beanie", "beartype", "boto3",
    "botocore", "bson", "cattr", "cattrs", "cerberus", "click", "colander", "dacite", "dateutil",
    "decouple", "elasticsearch", "elastic_transport", "email_validator", "environs", "google",
    "graphql", "grpc", "httpx", "itsdangerous", "iso8601", "jose", "jwt", "ldap3", "lxml",
    "mashumaro", "mongoengine", "openai", "opensearchpy", "orjson", "pendulum", "phonenumbers",
    "pydantic_settings", "pymongo", "redis", "referencing", "requests", "s3transfer", "schema",
    "stripe", "toml", "tortoise", "trafaret", "twilio", "typedload", "typeguard", "ujson",
    "urllib3", "valkey", "voluptuous", "xmltodict", "yarl", "zeep",
})  # fmt: skip


def raised_in(error: BaseException) -> str:
    """Return the file in which an exception was raised; "" where nobody has raised it."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename


def is_of_library(kind: type[BaseException], path: str) -> bool:
    """Return whether a library has worded an error: by its class, or by where it was raised."""
    package = kind.__module__.partition(".")[0]
    if package == "builtins":
        if issubclass(kind, _OF_PROGRAM):
            return False
    elif package in _LIBRARIES or package in sys.stdlib_module_names:
        return True
    return path.startswith(_STANDARD) or any(part in path for part in _INSTALLED)


_QUOTED = re.compile(
    r"(?s)(?<![\w])b?(?P<quote>['\"`])(?P<inside>(?:[^'\"`\\\n]|\\.|(?!(?P=quote))['\"`])*)(?P=quote)"
)
# Behind these words stands what was given, and before those.
_GIVEN = re.compile(
    r"(?i)\b(?:got|values?|input|data|string|str|literal|parse|parsing|match|near|provided|received"
    r"|given|entry|format|text|pk)\b[^'\"`\w]{0,3}(?:(?:value|input)\b[^'\"`\w]{0,3})?\Z"
)
_REJECTED = re.compile(
    r"(?i)\s{0,2}(?:(?:is|was|are)(?: not|n't) (?:an?|one|in|of|valid|allowed|the|json|callable)\b"
    r"|(?:do|does)(?: not|n't) (?:match|appear|look|contain|conform)|doesn't\)|is an? invalid"
    r"|should be|can(?:not|'t) be (?!found)|is too |has invalid)"
)
_TYPE = re.compile(r"<class '[\w.]+'>|(?:int|str|float|bool|list|dict|None|NoneType|object)")
# What follows in a sentence as it is, to the end of its clause.
_TOLD_BARE = re.compile(
    r"(?i)(\b(?:value|values|remains|provided|given|input|string format|unparsed data)(?:: ))"
    r"(?!['\"`]|line \d)(.+?)(?=, type: |, valid |\. |\n|\Z)"
)
_WORD = re.compile(r"[^\s'\"`,;:()\[\]{}<>|=/\\]{6,}")
# A short name with a number (utf-8, sha256, x86_64, ORA-12899), a version, a place in memory.
_NAME_AND_NUMBER = re.compile(
    r"(?:[A-Za-z]{1,5}|[Pp]ython)[-_]?\d{1,6}(?:[._]\d{1,4})*|v?\d+(?:\.\d+){1,3}|0x[0-9a-fA-F]+"
)
# A host, a file, or a class by its module.
_DOTTED = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z]{2,12}|(?:[A-Za-z_]\w*\.)+[A-Za-z_]+")
_NUMBER = re.compile(r"[\d.+\-]{0,5}|\d+\.\d+")
_DIGITS_IN_LETTERS = re.compile(r"\d[A-Za-z]|[A-Za-z]\d|\d-[A-Za-z]|[A-Za-z]-\d")


def without_values(text: str) -> str:
    """Return a library's text with "[Filtered]" for what looks like a value."""
    text = _TOLD_BARE.sub(rf"\1{FILTERED}", text)
    if "'" in text or '"' in text or "`" in text:
        text = _QUOTED.sub(_unquoted, text)
    return _WORD.sub(_shown, text)


def _unquoted(match: re.Match[str]) -> str:
    inside, text = match["inside"], match.string
    if not inside or _TYPE.fullmatch(inside) is not None:
        return match[0]
    before = text[max(0, match.start() - 24) : match.start()]
    if _GIVEN.search(before) is None and _REJECTED.match(text, match.end()) is None:
        return match[0]
    return f"{match['quote']}{FILTERED}{match['quote']}"


def _shown(match: re.Match[str]) -> str:
    return FILTERED if looks_like_value(match[0].rstrip(".!?")) else match[0]


def looks_like_value(word: str) -> bool:
    """Return whether a word is not a name: letters and digits run together, a long number, an @."""
    if "@" in word:
        return True
    if _NAME_AND_NUMBER.fullmatch(word) is not None:
        return False
    if _NUMBER.fullmatch(word) is not None or _DOTTED.fullmatch(word) is not None:
        return False
    digits = sum(map(str.isdigit, word))
    if digits >= 6 and digits == sum(map(str.isalnum, word)):
        return True
    return digits > 0 and len(word) >= 6 and _DIGITS_IN_LETTERS.search(word) is not None
