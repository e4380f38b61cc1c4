"""Texts of errors in other clients' payloads tell no more than in ours."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import asgi_request, plain_asgi_app
from tests.requests_of import scope_of
from usercontext import asgi
from usercontext.clients.payload import PayloadClient
from usercontext.privacy.error_texts import retelling

if TYPE_CHECKING:
    from collections.abc import Callable


class Noting(PayloadClient):
    """A library whose payload is one text of the error that it reports."""

    lost = ("noting payload", "a payload went out without its user")
    spoken = ("error",)


def payload_of(error: Exception, option: str, make: Callable[[str], Any] = str) -> Any:
    """Return what a client leaves of the text that another library made of an error."""
    payloads: list[Any] = []
    client = Noting()

    def fail() -> None:
        try:
            raise error
        except Exception:
            payloads.append(client.fill({"error": make(str(error)), "other": "hunter2"}))

    options: Any = {"clients": [client], "exception_text": option}
    scope = scope_of(query_string=b"q=hunter2")
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail), **options), scope)
    return payloads[0]["error"]


@pytest.mark.parametrize(
    ("option", "shown"),
    [("safe", "no [Filtered]"), ("full", "no hunter2"), ("none", "")],
)
def test_values_of_the_request(option: str, shown: str) -> None:
    """What the request holds and was withheld is replaced, by the option `exception_text`."""
    assert payload_of(RuntimeError("no hunter2"), option) == shown


def test_what_an_error_quotes() -> None:
    """What the error of a known kind quotes of its input is left out, nested as deep as it is."""
    error = ValueError("invalid literal for int() with base 10: 'seven'")
    shown = payload_of(error, "safe", lambda text: [{"message": f"ValueError: {text}"}])
    assert shown == [
        {"message": "ValueError: invalid literal for int() with base 10: '[Filtered]'"}
    ]


def test_a_text_that_was_cut() -> None:
    """The beginning of a long text, which is all that some libraries show, is replaced as well."""
    error = ValueError("invalid literal for int() with base 10: " + repr("7x" * 500))
    shown = payload_of(error, "safe", lambda text: text[:100])
    assert shown == "invalid literal for int() with base 10: '[Filtered]'"


def test_causes() -> None:
    """Whatever an exception came from is told by its own safe text."""
    error = RuntimeError("worse")
    error.__cause__ = ValueError("could not convert string to float: 'seven'")
    assert "seven" not in retelling(error)(str(error.__cause__))
    error.__cause__.__cause__ = error
    assert retelling(error)("worse") == "worse"


def test_groups_and_notes() -> None:
    """A group's members and notes are told by safe texts of their own."""
    member = ValueError("could not convert string to float: 'seven\\neight nine'")
    member.add_note("while reading https://shop.example/?token=hunter2")
    group = ExceptionGroup("two", [ExceptionGroup("one", [member])])
    shown = retelling(group)("".join(traceback.format_exception(group)))
    assert "convert string to float" in shown
    assert "seven" not in shown
    assert "hunter2" not in shown


def test_lines_that_a_traceback_indents() -> None:
    """Of a text of several lines each is found where others have indented it."""
    order = pytest.importorskip("pydantic").create_model("Order", amount=(int, ...))
    posted = {"amount": "4111-1111"}
    with pytest.raises(ValueError) as raised:
        order.model_validate(posted)
    group = ExceptionGroup("two", [raised.value])
    shown = retelling(group)("".join(traceback.format_exception(group)))
    assert "  | amount\n" in shown
    assert "4111-1111" not in shown


def test_outside_of_requests() -> None:
    """Texts of errors that no request has raised are told safely as well."""
    error = ValueError("invalid literal for int() with base 10: 'seven'")
    try:
        raise error
    except ValueError:
        payload = Noting().fill({"error": str(error)})
    assert "seven" not in payload["error"]


def test_what_could_not_be_decoded() -> None:
    """A variable that shows a UnicodeError is told without the text that it is about."""
    error = UnicodeDecodeError("utf-8", b"hunter2\xff", 7, 8, "invalid start byte")
    shown = retelling(error)(f"error = {error!r}")
    assert shown == (
        "error = <UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 7: "
        "invalid start byte>"
    )
