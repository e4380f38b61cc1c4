"""The exceptions of usercontext, as values that travel."""

from __future__ import annotations

import copy
import pickle

import pytest

from usercontext import (
    ConfigurationError,
    InvalidDsnError,
    InvalidUserError,
    MissingDependencyError,
    UserContextError,
)

ERRORS = [
    ConfigurationError("a text"),
    InvalidDsnError("a text"),
    InvalidUserError("a text"),
    MissingDependencyError("starlette", "asgi", purpose="A resolver over ASGI"),
    MissingDependencyError("ddtrace", "ddtrace", purpose="DdtraceClient", problem="a text"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_copied_and_sent_to_another_process(error: UserContextError) -> None:
    """A copy, pickled or not, is of the same class and says the same."""
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(copied) is type(error)
        assert (str(copied), copied.args) == (str(error), error.args)
        assert vars(copied) == vars(error)
