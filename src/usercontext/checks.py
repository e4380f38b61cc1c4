"""Checks of options: each returns the value to go on with, or raises the error that mends it."""

from __future__ import annotations

from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeGuard

__all__ = [
    "choice",
    "count",
    "flag",
    "function",
    "is_async",
    "is_number",
    "is_whole",
    "listed",
    "methods",
    "names",
    "nearest",
    "options_by_name",
    "renames",
    "seconds",
    "secret",
    "takes_one",
]

_HUGE = 1e300
# Of a code object: it takes any keywords.
_ANY_KEYWORDS = 0x08
# Of a code object: coroutine, iterable coroutine or asynchronous generator (module inspect).
_ASYNC = 0x80 | 0x100 | 0x200

F = TypeVar("F", bound="Callable[..., Any]")


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _HUGE  # not NaN, and what `float()` can hold


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def flag(option: str, value: object) -> bool:
    """Return True or False, and nothing that merely counts as one."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(
        f"{option} must be True or False, not {value!r:.80}: write {option}=True"
    )


def count(option: str, value: object) -> int:
    """Return a whole number of at least 1."""
    if is_whole(value) and value >= 1:
        return value
    raise ConfigurationError(
        f"{option} must be a whole number of at least 1, not {value!r:.80}: write {option}=100"
    )


def seconds(option: str, value: Any, *, least: float | None = None) -> float:
    """Return a finite number of seconds, of a number or a timedelta.

    Args:
        option: its name.
        value: what was given.
        least: the smallest number that is allowed; None: all above 0 are.
    """
    total = getattr(value, "total_seconds", None)
    number: Any = total() if callable(total) else value
    if is_number(number) and (number > 0 if least is None else number >= least):
        return float(number)
    bound = " above 0" if least is None else f", {least} or more"
    raise ConfigurationError(
        f"{option} must be a number of seconds{bound}, not {value!r:.80}: write {option}=10.0"
    )


def choice(option: str, value: object, *known: str | None) -> Any:
    """Return one of the values that there are."""
    if any(value is one or value == one for one in known):
        return value
    written = ["None" if one is None else f'"{one}"' for one in known]
    raise ConfigurationError(
        f"{option} must be {' or '.join(written)}, not {value!r:.80}: write {option}={written[0]}"
    )


def function(option: str, value: Any, takes: str = "event") -> Any:
    """Return a callable that is not `async def`, as nobody could await it; or None."""
    if value is None or (callable(value) and not is_async(value)):
        return value
    raise ConfigurationError(
        f"{option} must be a plain function, not {_kind(value)}: write "
        f"`def {option}({takes})`, which returns the result and is not async"
    )


def is_async(value: Any) -> bool:
    """Tell whether what a call returns has to be awaited, of partials and callables as well."""
    while hasattr(value, "func"):
        value = value.func
    return _is_async_code(value) or _is_async_code(getattr(type(value), "__call__", None))  # noqa: B004


def _is_async_code(value: Any) -> bool:
    from inspect import iscoroutinefunction  # knows marks as well

    code = getattr(value, "__code__", None)
    return iscoroutinefunction(value) or (code is not None and bool(code.co_flags & _ASYNC))


def takes_one(value: Any) -> bool:
    """Tell whether a callable can be called with one argument, so far as that can be told."""
    if type(value) is FunctionType:  # nearly every one, and an `isolation_scope` should be quick
        code = value.__code__
        if code.co_argcount == 1 and not code.co_kwonlyargcount:
            return True
    from inspect import signature

    try:
        # A wrapper is what is called: that it has another function's signature says nothing.
        found = signature(value, follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    try:
        found.bind(None)
    except TypeError:
        return False
    return True


def secret(option: str, value: Any, least: int, make: str) -> bytes:
    """Return a key as bytes; the error shows nothing of it.

    Args:
        option: its name.
        value: what was given: bytes, or a str.
        least: how many bytes it needs.
        make: what makes one.
    """
    try:
        key = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:  # whose text and object hold the key
        key = None
    if isinstance(value, str) and key is None:
        raise ConfigurationError(
            f"{option} holds a lone surrogate, which is not a character: make one with {make}"
        )
    if not isinstance(key, bytes):
        raise ConfigurationError(
            f"{option} must be bytes or str, not {_kind(key)}: give at least {least} of them, made "
            f"with {make}"
        )
    if len(key) < least:
        raise ConfigurationError(
            f"{option} has {len(key)} bytes and needs at least {least}: make one with {make}"
        )
    return key


def listed(option: str, value: Any, what: str, example: str) -> tuple[Any, ...]:
    """Return the items of a list; one text, which iterates as letters, is refused.

    Args:
        option: its name.
        value: what was given.
        what: what the list holds.
        example: the list as it may be written.
    """
    if not isinstance(value, str | bytes | type) and hasattr(value, "__iter__"):
        return tuple(value)
    raise ConfigurationError(
        f"{option} must be a list of {what}, not {_kind(value)}: write {option}={example}"
    )


def renames(option: str, value: Any, what: str, example: str) -> dict[str, str]:
    """Return a copy of a map of a user's fields to names.

    Args:
        option: its name.
        value: what was given.
        what: what the names are of.
        example: the map as it may be written.
    """
    if hasattr(value, "items"):
        copy = dict(value.items())
        if all(isinstance(name, str) and name for pair in copy.items() for name in pair):
            return copy
    raise ConfigurationError(
        f"{option} must map fields of the user to {what}, such as {example}, not {_kind(value)}"
    )


def methods(option: str, value: object, wanted: Iterable[str], what: str) -> None:
    """Refuse an object without the methods that will be called, or a class given for one."""
    if isinstance(value, type):
        raise ConfigurationError(
            f"{option}: {value.__name__} is a class, not an object: write {value.__name__}()"
        )
    for name in wanted:
        if not callable(getattr(value, name, None)):
            raise ConfigurationError(
                f"{option}: {_kind(value)} has no method {name}(): give {what}"
            )


def names(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse an option that does not exist, and name the nearest that does."""
    known = list(known)
    for name in given:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(sorted(known))}"
            raise ConfigurationError(f"{name} is not an option: {hint}")


def options_by_name(init: F) -> F:
    """Let a constructor say which option is misspelled, or is given without its name.

    Python's own TypeError names neither the option that was meant nor how to write it.
    """
    code = init.__code__
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @wraps(init)
    def checked(*args: Any, **options: Any) -> Any:
        if len(args) > code.co_argcount:
            raise ConfigurationError(_without_name(args[0], args[code.co_argcount]))
        if not code.co_flags & _ANY_KEYWORDS:
            names(options, known)
        elif len(args) == 1 and "app" not in options:
            raise ConfigurationError(_without_app(args[0]))
        return init(*args, **options)

    return checked  # type: ignore[return-value]


def _without_app(owner: object) -> str:
    name = _kind(owner)
    return (
        f"{name} was built without its app: to add_middleware give the class and its options, "
        f"app.add_middleware({name}, resolver=find_user), elsewhere the app it serves, "
        f"{name}(app, resolver=find_user)"
    )


def _without_name(owner: object, value: object) -> str:
    name = getattr(value, "__name__", "find_user")
    fix = (
        f"resolver={name}" if callable(value) else "each with its name, such as resolver=find_user"
    )
    return f"{_kind(owner)} takes options by name alone: write {fix}"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the word that somebody may have meant; None if none is near."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), 1, cutoff)
    return close[0] if close else None


def _kind(value: object) -> str:
    return type(value).__name__
