"""Functions that carry a record into wherever they are called, of all four kinds."""

from __future__ import annotations

from functools import update_wrapper
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from usercontext.core.lifecycle import inside
from usercontext.core.passage import attach

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from usercontext.core.record import RequestRecord

__all__ = ["bound"]

P = ParamSpec("P")
T = TypeVar("T")


class _carrying:  # noqa: N801 - it reads as what it makes of a block
    """Make a record the current one for a block, and known of an exception that leaves it."""

    __slots__ = ("_inside", "_record")

    def __init__(self, record: RequestRecord) -> None:
        self._record = record
        self._inside = inside(record)

    def __enter__(self) -> None:
        self._inside.__enter__()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._inside.__exit__()
        if isinstance(error, Exception):
            attach(error, self._record)


def bound(function: Callable[P, T], record: RequestRecord) -> Callable[P, T]:
    """Return a function that runs inside a record; of a generator, every step does."""
    code = _code_of(function)
    carried: Any
    if isgeneratorfunction(code):
        carried = _bound_generator(function, record)
    elif isasyncgenfunction(code):
        carried = _bound_async_generator(function, record)
    elif iscoroutinefunction(code):
        carried = _bound_coroutine(function, record)
    else:
        carried = _bound_call(function, record)
    return update_wrapper(carried, function)


def _code_of(function: Any) -> Any:
    """Return what is run: of an object that can be called, its class's method."""
    while hasattr(function, "func") and not hasattr(function, "__code__"):  # a partial
        function = function.func
    is_function = hasattr(function, "__code__") or isinstance(function, type)
    return function if is_function else type(function).__call__


def _bound_call(function: Any, record: RequestRecord) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _carrying(record):
            return function(*args, **kwargs)

    return call


def _bound_coroutine(function: Any, record: RequestRecord) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with _carrying(record):
            return await function(*args, **kwargs)

    return call


def _bound_generator(function: Any, record: RequestRecord) -> Any:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        step, value = generator.send, None
        while True:
            try:
                with _carrying(record):
                    made = step(value)
            except StopIteration as stop:
                return stop.value
            try:
                step, value = generator.send, (yield made)
            except BaseException as error:  # noqa: BLE001 - thrown in by the caller, and passed on
                step, value = _thrown(generator, error)

    return call


def _thrown(generator: Any, error: BaseException) -> tuple[Any, Any]:
    """Return the step that hands on what the caller throws in, or closes."""
    if isinstance(error, GeneratorExit) and hasattr(generator, "close"):
        return _close, generator
    return generator.throw, error


def _close(generator: Any) -> Any:
    generator.close()
    raise GeneratorExit


def _bound_async_generator(function: Any, record: RequestRecord) -> Any:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        step, value = generator.asend, None
        while True:
            try:
                with _carrying(record):
                    made = await step(value)
            except StopAsyncIteration:
                return
            try:
                step, value = generator.asend, (yield made)
            except GeneratorExit:
                with _carrying(record):
                    await generator.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the caller, and passed on
                step, value = generator.athrow, error

    return call
