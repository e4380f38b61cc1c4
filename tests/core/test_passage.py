"""The app's exceptions stay as they were, whatever has been seen of them."""

from __future__ import annotations

import concurrent.futures
import copy
import copyreg
import gc
import multiprocessing
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import asgi_request, plain_asgi_app, plain_wsgi_app, wsgi_request
from usercontext import asgi, capture_exception, isolation_scope, wsgi
from usercontext.core.passage import attach, is_reported, mark_reported, of_error
from usercontext.core.record import RequestRecord
from usercontext.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usercontext.testing import RecordingClient

ADA = {"id": 1, "email": "ada@shop.example"}


class PlainError(Exception):
    """An exception as apps write them."""


class SlottedError(Exception):
    """One that allows no weak reference."""

    __slots__ = ("code",)


@dataclass(frozen=True)
class FrozenError(Exception):
    """One that refuses to be changed."""

    code: int = 1


@dataclass(frozen=True, slots=True)
class FrozenSlottedError(Exception):
    """One that refuses to be changed, and allows no weak reference."""

    code: int = 1


class EqualError(Exception):  # noqa: PLW1641
    """One that equals all others, and so has no hash."""

    def __eq__(self, other: object) -> bool:
        return True


class RaisingError(Exception):
    """One that cannot be compared or hashed."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError


class GuardedError(Exception):
    """One that lets no attribute be set or read."""

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise RuntimeError
        return super().__getattribute__(name)


KINDS: dict[str, Callable[[], Exception]] = {
    "of Python": lambda: KeyError("order"),
    "of the system": lambda: FileNotFoundError(2, "no such file", "order.pdf"),
    "group": lambda: ExceptionGroup("two", [KeyError("a"), PlainError("b")]),
    "of an app": lambda: PlainError("text", 1),
    "slotted": lambda: SlottedError("text"),
    "frozen": FrozenError,
    "frozen, slotted": FrozenSlottedError,
    "equal to all": lambda: EqualError("text"),
    "raising": lambda: RaisingError("text"),
    "guarded": lambda: GuardedError("text"),
}
# By Python itself, which sets the attributes of the copy one by one.
CANNOT_BE_COPIED = (FrozenError, FrozenSlottedError, GuardedError)
ALL = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def raised(error: Exception) -> Exception:
    """Return the error, after it has left a request over ASGI and another block."""

    def fail() -> None:
        with isolation_scope(user=ADA):
            raise error

    with pytest.raises(type(error)):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail), resolver=lambda _: ADA))
    return error


@ALL
def test_an_exception_shows_nothing(
    make: Callable[[], Exception], usercontext_recorder: RecordingClient
) -> None:
    """One that was reported and has passed has the attributes that it would have without us."""
    error, untouched = raised(make()), make()
    assert len(usercontext_recorder.events) == 1
    own = BaseException.__dict__["__dict__"].__get__
    assert own(error) == own(untouched)
    assert repr(own(error)) == repr(own(untouched))
    assert repr(error) == repr(untouched)


@ALL
def test_an_exception_is_pickled_as_ever(
    make: Callable[[], Exception], usercontext_recorder: RecordingClient
) -> None:
    """The dump of one that has passed names no user and nothing of ours, and can be read."""
    if make().__class__ in CANNOT_BE_COPIED:
        pytest.skip("Python itself cannot pickle this one")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        dump = pickle.dumps(raised(make()), protocol)
        assert b"usercontext" not in dump.replace(b"tests.core.test_passage", b"")
        assert b"ada@" not in dump
        assert repr(pickle.loads(dump)) == repr(make())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@ALL
def test_a_copy_has_passed_nothing(
    make: Callable[[], Exception],
    duplicate: Callable[[Exception], Exception],
    usercontext_recorder: RecordingClient,
) -> None:
    """A copy is an exception of its own, which the original's request says nothing of."""
    if make().__class__ in CANNOT_BE_COPIED:
        pytest.skip("Python itself cannot copy this one")
    double = duplicate(raised(make()))
    assert repr(double) == repr(make())
    assert of_error(double) == (False, None)


@ALL
def test_it_is_found_by_its_exception(make: Callable[[], Exception]) -> None:
    """Who was current when an exception passed is known of every kind of exception."""
    record, error = RequestRecord.of({}, Settings()), make()
    assert of_error(error) == (False, None)
    attach(error, record)
    assert of_error(error) == (True, record)


@ALL
def test_once_means_this_very_exception(make: Callable[[], Exception]) -> None:
    """An exception that equals the one reported is reported all the same."""
    record, error, other = RequestRecord.of({}, Settings()), make(), make()
    mark_reported(error, record)
    assert is_reported(error, record)
    assert not is_reported(other, record)


@ALL
def test_nothing_is_kept_of_an_exception_that_is_gone(make: Callable[[], Exception]) -> None:
    """Neither a table of ours nor the exception keeps a request's record alive."""
    record, error = RequestRecord.of({}, Settings()), make()
    attach(error, record)
    gone = weakref.ref(record)
    del record, error
    gc.collect()
    assert gone() is None


def test_the_number_of_a_dead_exception_is_nobodys() -> None:
    """Python uses ids again: of many exceptions that live one after another none has passed."""
    record = RequestRecord.of({}, Settings())
    for number in range(1000):
        error = PlainError(number)
        assert of_error(error) == (False, None)
        attach(error, record)


def fail_in_scope(user: dict[str, object]) -> None:
    """Fail as a job does."""
    with isolation_scope(user=user):
        raise KeyError("order")


def test_an_exception_crosses_a_process_pool() -> None:
    """A job's own exception arrives from another process, of `concurrent.futures` and the other."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert repr(executor.submit(fail_in_scope, ADA).exception(60)) == "KeyError('order')"
    with context.Pool(1) as pool, pytest.raises(KeyError, match="order"):
        pool.apply(fail_in_scope, (ADA,))


@pytest.fixture
def ways_to_pickle() -> Iterator[None]:
    """Undo what teaches pickle other ways, for every class of exceptions."""
    before = dict(copyreg.dispatch_table)
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


@pytest.mark.usefixtures("ways_to_pickle")
def test_an_exception_crosses_with_its_traceback() -> None:
    """By tblib, as Django's parallel test runner has it, which asks first whether it can."""
    pickling_support = pytest.importorskip("tblib.pickling_support")
    runner = pytest.importorskip("django.test.runner")
    error = raised(PlainError("order"))
    pickling_support.install(error)

    runner.RemoteTestResult().check_picklable(None, (type(error), error, error.__traceback__))
    copied = pickle.loads(pickle.dumps(error))
    assert (repr(copied), copied.__traceback__ is None) == ("PlainError('order')", False)


def test_a_dump_is_read_without_us() -> None:
    """Where usercontext is not installed the dump of an exception that has passed is read."""
    dump = pickle.dumps(raised(KeyError("order")))
    code = f"import pickle; print(repr(pickle.loads({dump!r})))"
    command = [sys.executable, "-I", "-S", "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown == "KeyError('order')\n"


@ALL
def test_the_same_exception_is_reported_once_per_request(
    make: Callable[[], Exception], usercontext_recorder: RecordingClient
) -> None:
    """What the app reported and raised on is one report, and a second request's is its own."""
    error = make()

    def fail() -> None:
        capture_exception(error)
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(fail)))
    assert len(usercontext_recorder.events) == 2
