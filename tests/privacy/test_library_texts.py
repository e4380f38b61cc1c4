"""Texts that libraries make tell no value, whichever library it is; and what they say stays."""

from __future__ import annotations

import configparser
import datetime
import enum
import http.client
import json
import subprocess
import time
import urllib.request
import zoneinfo
from email.utils import parsedate_to_datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.privacy.error_texts import safe_error_text
from usercontext.privacy.library_texts import looks_like_value, without_values

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2-is-4her5"


def _call(module: str, name: str, *args: Any, **options: Any) -> Any:
    """Call what a package may have."""
    found: Any = pytest.importorskip(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(*args, **options)


def _raise(module: str, name: str, *args: Any, **options: Any) -> None:
    raise _call(module, name, *args, **options)


class _Size(enum.Enum):
    SMALL = "small"


def _attrs(validator: str, *args: Any) -> None:
    attr = pytest.importorskip("attr")
    field = attr.ib(validator=getattr(attr.validators, validator)(*args))
    attr.make_class("Cart", {"code": field})(code=SECRET)


def _graphql(query: str) -> None:
    graphql = pytest.importorskip("graphql")
    schema = graphql.build_schema("enum E { X } type Query { a(x: Int, e: E): Int }")
    raise graphql.graphql_sync(schema, query).errors[0]


def _jwt() -> None:
    signer = _call("itsdangerous", "Signer", "key")
    signer.unsign(f"ada.{SECRET}")


def _click() -> None:
    click = pytest.importorskip("click")
    click.Command("x", params=[click.Option(["--size"], type=int)]).main(
        ["--size", SECRET], standalone_mode=False
    )


def _choice() -> None:
    wrong = f"Select a valid choice. {SECRET} is not one of the available choices."
    raise ValueError(json.dumps({"size": [wrong]}))


def _header() -> None:
    connection = http.client.HTTPConnection("shop.example")
    connection.putrequest("GET", "/")
    connection.putheader("X", f"{SECRET}\nmore")


def _sql() -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    table = sqlalchemy.Table(
        "carts", sqlalchemy.MetaData(), sqlalchemy.Column("made", sqlalchemy.DateTime)
    )
    engine = sqlalchemy.create_engine("sqlite://")
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), {"made": SECRET})


AWS = "botocore.exceptions"
MONGO = "pymongo.errors"
RAISING: dict[str, tuple[Callable[[], Any], str]] = {
    "int": (lambda: int(SECRET), "invalid literal for int()"),
    "Fraction": (lambda: Fraction(SECRET), "Invalid literal for Fraction"),
    "enum": (lambda: _Size(SECRET), "is not a valid _Size"),
    "date": (lambda: datetime.date.fromisoformat(SECRET), "Invalid isoformat string"),
    "strptime": (lambda: time.strptime(SECRET, "%Y"), "does not match format"),
    "rest of a date": (
        lambda: time.strptime(f"2024{SECRET}", "%Y"), "unconverted data remains"
    ),
    "date of an e-mail": (lambda: parsedate_to_datetime(SECRET), "Invalid date value or format"),
    "encoding": (lambda: b"".decode(SECRET) or b"x".decode(SECRET), "unknown encoding"),
    "zone": (lambda: zoneinfo.ZoneInfo(SECRET), "No time zone found"),
    "command": (
        lambda: subprocess.run(["false", "--password", SECRET], check=True),
        "Command 'false' returned 1",
    ),
    "command line": (
        lambda: subprocess.run(f"false {SECRET}", shell=True, check=True),
        "Command 'false' returned 1",
    ),
    "command's time": (
        lambda: subprocess.run(["sleep", "3", SECRET][:2], timeout=0.01, check=False),
        "Command 'sleep' timed out",
    ),
    "configuration": (
        lambda: configparser.ConfigParser().read_string(SECRET), "no section headers"
    ),
    "same file": (lambda: _raise("shutil", "SameFileError", f"{SECRET!r} is 'b'"), "is"),
    "URL": (lambda: urllib.request.urlopen(SECRET), "unknown url type"),
    "scheme": (lambda: urllib.request.urlopen(f"foo{SECRET}://x"), "unknown url type"),
    "port": (lambda: http.client.HTTPConnection(f"x:{SECRET}"), "nonnumeric port"),
    "status line": (lambda: _raise("http.client", "BadStatusLine", SECRET), "[Filtered]"),
    "header": (_header, "Invalid header value"),
    "SMTP": (
        lambda: _raise("smtplib", "SMTPDataError", 554, f"<{SECRET}@x.example> refused"), "554"
    ),
    "attrs: a type": (lambda: _attrs("instance_of", int), "'code' must be <class 'int'>"),
    "attrs: a list": (lambda: _attrs("in_", ["x"]), "'code' must be in ['x']"),
    "attrs: a pattern": (lambda: _attrs("matches_re", "x+"), "'code' must match regex"),
    "itsdangerous": (_jwt, "does not match"),
    "click": (_click, "is not a valid integer"),
    "a form's choice in an app's text": (_choice, "Select a valid choice."),
    "SQLAlchemy's own": (_sql, "SQLite DateTime type only accepts"),
    "GraphQL: a value": (lambda: _graphql(f'{{ a(x: "{SECRET}") }}'), "Int cannot represent"),
    "GraphQL: a field": (lambda: _graphql("{ hunter2is4her5 }"), "Cannot query field"),
    "GraphQL: an enum": (lambda: _graphql("{ a(e: hunter2is4her5) }"), "does not exist in 'E'"),
    "GraphQL: the document": (lambda: _call("graphql", "parse", f'{{ a("{SECRET}'), "Syntax Error"),
    "requests: a URL": (lambda: _call("requests", "get", SECRET), "Invalid URL"),
    "requests: an adapter": (lambda: _call("requests", "get", f"foo://{SECRET}"), "No connection"),
    "requests: a header": (
        lambda: _call("requests", "get", "http://127.0.0.1:9/", headers={"X": f"{SECRET}\n"}),
        "header value",
    ),
    "httpx: a port": (lambda: _call("httpx", "URL", f"http://x:{SECRET}/"), "Invalid port"),
    "urllib3": (lambda: _call("urllib3.util", "parse_url", f"http://[{SECRET}"), "is not a valid"),
    "AWS: a value": (
        lambda: _raise(AWS, "ClientError", {"Error": {
            "Code": "ValidationException", "Message": f"Value '{SECRET}' at 'x' is wrong"}}, "Put"),
        "An error occurred (ValidationException) when calling the Put operation",
    ),
    "AWS: a user": (
        lambda: _raise(AWS, "ClientError", {"Error": {
            "Code": "UserExists", "Message": f"User {SECRET} already exists"}}, "SignUp"),
        "already exists",
    ),
    "AWS: a parameter": (
        lambda: _raise(AWS, "ParamValidationError", report=(
            f"Invalid type for parameter Key, value: {{'a': 'my {SECRET}'}}, type: <type>")),
        "Invalid type for parameter Key",
    ),
    "MongoDB: a key": (
        lambda: _raise(MONGO, "DuplicateKeyError", f"E11000 index: email dup key: {{ {SECRET} }}"),
        "E11000 index: email",
    ),
    "MongoDB: many": (
        lambda: _raise(MONGO, "BulkWriteError", {"writeErrors": [{"op": {"email": SECRET}}]}),
        "batch op errors occurred",
    ),
    "MongoDB: details": (
        lambda: _raise(MONGO, "WriteError", "failed validation", 121, {"errInfo": SECRET}),
        "failed validation",
    ),
    "BSON": (lambda: _call("bson", "ObjectId", SECRET), "is not a valid ObjectId"),
    "Redis": (
        lambda: _raise("redis.exceptions", "ResponseError", f"args beginning with: '{SECRET}'"),
        "args beginning with",
    ),
}  # fmt: skip


def _raised(by: Callable[[], object]) -> BaseException:
    try:
        by()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(("by", "said"), RAISING.values(), ids=RAISING)
def test_error(by: Callable[[], object], said: str) -> None:
    """What was wrong is told, and not what was given."""
    error = _raised(by)
    told = safe_error_text(error)
    assert said in told
    assert "hunter2" not in told


def _library(package: str, text: str) -> Exception:
    kind = type("Error", (Exception,), {"__module__": f"{package}.errors"})
    return kind(text)


WORDED = {
    "cattrs": f"Extra fields in constructor for A: {SECRET}",
    "cerberus": f"'{SECRET}' is not a document, must be a dict",
    "colander": f"{{'size': '\"{SECRET}\" is not a number'}}",
    "dacite": f'wrong value type for field "a" - should be "int" instead of value "{SECRET}"',
    "elasticsearch": f"failed to parse field [age]. Preview of field's value: '{SECRET}'",
    "grpc": f'status = StatusCode.INVALID_ARGUMENT\n\tdetails = "bad code {SECRET}"',
    "lxml": f"Opening and ending tag mismatch: b line 1 and {SECRET}, line 1",
    "mashumaro": f"Field \"a\" of type int in A has invalid value '{SECRET}'",
    "mongoengine": f"ValidationError (User:None) (Invalid code: {SECRET}: ['code'])",
    "openai": f"Error code: 401 - {{'error': {{'message': 'Incorrect API key: {SECRET}.'}}}}",
    "pendulum": f"Unable to parse string [{SECRET}]",
    "schema": f"Key 'a' error:\n'{SECRET}' should be instance of 'int'",
    "stripe": f"No such customer: '{SECRET}'",
    "toml": f"invalid literal for int() with base 0: '{SECRET}' (line 1 column 1 char 0)",
    "tortoise": f"email: Value '{SECRET}' does not match regex",
    "voluptuous": f"extra keys not allowed @ data['{SECRET}']",
    "arrow": f"Failed to match 'YYYY' when parsing '{SECRET}'.",
    "beartype": f"Function f() parameter a='{SECRET}' violates type hint <class 'int'>",
}


@pytest.mark.parametrize(("package", "text"), WORDED.items(), ids=WORDED)
def test_wording(package: str, text: str) -> None:
    """How libraries word what they quote is known by its place in the text and its look."""
    told = safe_error_text(_library(package, text))
    assert "hunter2" not in told
    assert "[Filtered]" in told


READABLE = [
    "Error 111 connecting to localhost:6379. Connection refused.",
    "HTTPSConnectionPool(host='api.shop-1.example', port=443): Max retries exceeded with url: /v1",
    "<urllib3.connection.HTTPSConnection object at 0x7f12ab>: Failed to resolve",
    "Mapper 'Mapper[Order(orders)]' has no property 'total'",
    "'user' is undefined",
    "Connection to 10.0.0.5:5432 timed out after 30.0 seconds",
    "An error occurred (AccessDenied) when calling the PutObject operation: Access Denied",
    "certificate verify failed: self-signed certificate (_ssl.c:992)",
    "Expecting value: line 1 column 1 (char 0)",
    "Model 'shop.Order' doesn't declare an explicit app_label",
    "needs HTTP/1.1, utf-8, python3.11, x86_64 and TLSv1.3",
]


@pytest.mark.parametrize("text", READABLE)
def test_readable(text: str) -> None:
    """What holds no value is told as it is: hosts, ports, versions, names of the program."""
    assert safe_error_text(_library("requests", text)) == text


@pytest.mark.parametrize(
    ("word", "is_value"),
    [
        ("ada@shop.example", True), ("hunter2", True), ("4111111111111111", True), ("a1b2c3", True),
        ("sha256", False), ("12345", False), ("ORA-12899", False), ("orders", False),
        ("db1.shop.example", False), ("report-2024.pdf", False), ("3.11.7", False),
    ],
)  # fmt: skip
def test_look_of_a_value(word: str, is_value: bool) -> None:
    """Letters and digits run together, long numbers and addresses are values; names are not."""
    assert looks_like_value(word) is is_value


def test_the_apps_own_words() -> None:
    """An error that the app has worded is told as it is, but for what is named a secret."""
    assert safe_error_text(RuntimeError("no such order: A1B2C3D4")) == "no such order: A1B2C3D4"
    told = safe_error_text(RuntimeError("refused {'user': 'ada', 'password': 'correct horse'}"))
    assert told == "refused {'user': 'ada', 'password': [Filtered]}"


def test_a_plain_error_that_a_library_raises() -> None:
    """Who has worded a ValueError is known by where it was raised."""
    namespace: dict[str, Any] = {}
    code = compile("def check(x): raise ValueError(f'wrong: {x}')", "/x/site-packages/a.py", "exec")
    exec(code, namespace)
    assert safe_error_text(_raised(lambda: namespace["check"](SECRET))) == "wrong: [Filtered]"


@pytest.mark.parametrize("part", ["'", "got '", "value: ", "a1", "x.", "'a' is not a "])
def test_long_texts(part: str) -> None:
    """A long text takes a time in proportion."""
    assert isinstance(without_values(part * (16_000 // len(part))), str)
