"""Texts of well-known errors are told without the input that they quote."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.privacy.error_texts import safe_error_text

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2-is-hers"


def _pydantic() -> None:
    pydantic = importlib.import_module("pydantic")
    model = pydantic.create_model("Signup", password=(int, ...))
    model.model_validate({"password": SECRET})


def _fastapi() -> None:
    exceptions = importlib.import_module("fastapi.exceptions")
    found = [{"loc": ("body", "password"), "type": "missing", "msg": "", "input": SECRET}]
    raise exceptions.ResponseValidationError(found, body={"password": SECRET})


def _sqlalchemy() -> None:
    sqlalchemy = importlib.import_module("sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("select password from nowhere where a = :a"), {"a": SECRET}
        )


def _django() -> None:
    exceptions = importlib.import_module("django.core.exceptions")
    raise exceptions.ValidationError({"password": [f"{SECRET} is too short"]}, code="short")


def _rest_framework() -> None:
    exceptions = importlib.import_module("rest_framework.exceptions")
    raise exceptions.ValidationError({"password": [f"{SECRET} is too short"]})


def _jsonschema() -> None:
    schema = {"properties": {"password": {"minLength": 40}}}
    importlib.import_module("jsonschema").validate({"password": SECRET}, schema)


def _msgspec() -> None:
    msgspec = importlib.import_module("msgspec")
    model = msgspec.defstruct("Signup", [("password", int)], forbid_unknown_fields=True)
    msgspec.json.decode(f'{{"{SECRET}": "password"}}', type=model)


def _httpx() -> None:
    httpx = importlib.import_module("httpx")
    request = httpx.Request("GET", f"https://ada:{SECRET}@shop.example/password?token={SECRET}")
    httpx.Response(404, request=request).raise_for_status()


def _requests() -> None:
    requests = importlib.import_module("requests")
    requests.get(f"http://127.0.0.1:9/password?token={SECRET}", timeout=5)


def _yaml() -> None:
    importlib.import_module("yaml").safe_load(f"password: [{SECRET}\n b: c")


LIBRARIES = [
    _pydantic, _fastapi, _sqlalchemy, _django, _rest_framework, _jsonschema, _msgspec, _httpx,
    _requests,
]  # fmt: skip


def _raised(by: Callable[[], object]) -> BaseException:
    try:
        by()
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("library", LIBRARIES)
def test_library(library: Callable[[], object]) -> None:
    """What was wrong stays, and what was given does not."""
    told = safe_error_text(_raised(library))
    assert SECRET not in told
    assert "password" in told or "unknown field" in told


def test_yaml() -> None:
    """YAML says where it was wrong, without the line."""
    told = safe_error_text(_raised(_yaml))
    assert SECRET not in told
    assert "line " in told


DATABASE = [
    f'duplicate key value violates "u"\nDETAIL:  Key (email)=({SECRET}) already exists.',
    f'null value in column "a"\nDETAIL:  Failing row contains (1, {SECRET}, null).',
    f"invalid input syntax for type integer: \"{SECRET}\"\nLINE 1: select '{SECRET}'\n      ^",
    f"(1062, \"Duplicate entry '{SECRET}' for key 'users.email'\")",
    f"(1366, \"Incorrect integer value: '{SECRET}' for column 'age' at row 1\")",
]


@pytest.mark.parametrize("text", DATABASE)
@pytest.mark.parametrize("package", ["psycopg", "django.db.utils"])
def test_database(package: str, text: str) -> None:
    """Drivers, and Django over them, name columns and no row."""
    base: type[Exception] = type("Error", (Exception,), {"__module__": package})
    kind = type("IntegrityError", (base,), {"__module__": package})
    assert SECRET not in safe_error_text(kind(text))


TEXTS: list[tuple[BaseException, str]] = [
    (KeyError("plan"), "'plan'"),
    (ValueError("no plan 'gold' for 3 people"), "no plan 'gold' for 3 people"),
    (RuntimeError("expected 3 rows but got 5"), "expected 3 rows but got 5"),
    (_raised(lambda: int(SECRET)), "invalid literal for int() with base 10: '[Filtered]'"),
    (_raised(lambda: float(SECRET)), "could not convert string to float: '[Filtered]'"),
    (
        RuntimeError("see https://docs.example/page?token=1#top"),
        "see https://docs.example/page?[Filtered]",
    ),
    (RuntimeError("postgresql://ada:pw@db/shop"), "postgresql://[Filtered]@db/shop"),
]


@pytest.mark.parametrize(("error", "told"), TEXTS)
def test_text(error: BaseException, told: str) -> None:
    """The app's own words stay; credentials and queries of URLs go."""
    assert safe_error_text(error) == told


def test_error_that_quotes_another() -> None:
    """An app's error that repeats a library's text is told without the input as well."""
    told = safe_error_text(RuntimeError(f"signup failed: {_raised(_pydantic)}"))
    assert SECRET not in told
    assert "Signup" in told


def test_unprintable() -> None:
    """An error that cannot be printed is named."""

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Unprintable" in safe_error_text(UnprintableError())


def test_unknown_release() -> None:
    """A known error without what it is told by says nothing of its text."""
    kind: Any = type("ValidationError", (Exception,), {"__module__": "marshmallow.exceptions"})
    assert safe_error_text(kind(SECRET)) == "[Filtered]"
