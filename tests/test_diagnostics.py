"""What goes wrong at run time: logged once with its traceback, counted, without a user's data."""

from __future__ import annotations

import pytest

from usercontext import diagnostics

EMAIL = "ada@shop.example"


class ShopError(Exception):
    """An exception of the app's own."""


def fail() -> None:
    """Fail as an app does, with a user's data in both texts."""
    try:
        raise KeyError(EMAIL)
    except KeyError as error:
        raise ShopError(f"no such customer: {EMAIL}") from error


def errors_of(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """Return the exceptions that the records show."""
    return [
        record.exc_info[1] for record in caplog.records if record.exc_info and record.exc_info[1]
    ]


def test_a_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the exception's type, its cause, and the lines that led to it."""
    with diagnostics.harmless("resolver", "the resolver failed"):
        fail()
    assert "the resolver failed" in caplog.text
    assert "ShopError" in caplog.text
    assert "KeyError" in caplog.text
    assert "fail()" in caplog.text


def test_a_failures_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What the app wrote into an exception may be a user's data: it is left out."""
    with diagnostics.harmless("resolver", "the resolver failed"):
        fail()
    assert EMAIL not in caplog.text
    assert "(its text is left out" in caplog.text


def test_a_chain_of_causes_that_has_no_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that is its own cause's cause is logged all the same."""
    first, second = ShopError(), ShopError()
    first.__cause__, second.__cause__ = second, first
    diagnostics.failure("resolver", "the resolver failed", error=first)
    assert "the resolver failed" in caplog.text


def test_a_cause_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """However often it fails, the log has it once; failures() has every time."""
    for _ in range(3):
        with diagnostics.harmless("resolver", "the resolver failed") as call:
            fail()
        assert call.failed
    assert len(caplog.records) == 1
    assert diagnostics.failures() == {"resolver": 3}


def test_another_class_of_failure_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """One cause that fails in another way is logged once more, and counted with the first."""
    for error in (KeyError(), OSError(), KeyError(), OSError()):
        diagnostics.failure("resolver", "the resolver failed", error=error)
    assert [type(error).__name__ for error in errors_of(caplog)] == ["KeyError", "OSError"]
    assert diagnostics.failures() == {"resolver": 4}


def test_failures_without_end_fill_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Past a thousand classes of failures nothing new is logged or kept."""
    for number in range(1100):
        error = type(f"Error{number}", (Exception,), {})()
        diagnostics.failure("resolver", "the resolver failed", error=error)
    assert len(caplog.records) == 1000


def test_causes_without_end_fill_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Past a thousand different causes nothing new is logged or kept."""
    for number in range(1100):
        diagnostics.warn_once(f"cause {number}", "something")
    assert len(caplog.records) == len(diagnostics.failures()) == 1000


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes(stop: type[BaseException]) -> None:
    """Only Exception is harmless."""
    with pytest.raises(stop), diagnostics.harmless("resolver", "the resolver failed"):
        raise stop
    assert diagnostics.failures() == {}
