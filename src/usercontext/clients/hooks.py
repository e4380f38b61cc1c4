"""Hooks in libraries: before what is there already, and put back where a library forgets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.tried import say_untried
from usercontext.core.context import pull_user
from usercontext.diagnostics import harmless, warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.types import GetUser

__all__ = [
    "Chained",
    "HookingClient",
    "call_before",
    "processor",
    "put_back_after",
    "wrap",
]


class HookingClient(BaseClient):
    """Keeps the function that pulls the user, and puts its hooks into a library."""

    def __init__(self) -> None:
        # A hook may be called before, and without, the client being one of `init(clients=[...])`.
        self._get_user: GetUser = pull_user

    def setup(self, get_user: GetUser, /) -> None:
        """Keep the function, say if the library's version is untried, and hook in."""
        self._get_user = get_user
        say_untried(type(self))
        self.hook()

    def hook(self) -> None:
        """Put nothing into the library."""


class Chained:
    """A hook of ours where a library has a place for one alone: the app's own runs after it.

    Args:
        ours: what is called first; it never raises.
        configured: what stood there, and answers in our place; None for nothing.
    """

    def __init__(self, ours: Callable[[Any], object], configured: Any) -> None:
        self._ours = ours
        self._configured = configured

    def __call__(self, item: Any, *more: Any) -> Any:
        """Call both; without the app's own the item passes."""
        self._ours(item)
        return item if self._configured is None else self._configured(item, *more)


def call_before(owner: Any, name: str, ours: Callable[..., object], *said: str) -> None:
    """Have a function of a library preceded by one of ours, which is given the same arguments.

    Args:
        owner: the module, class or object that the function is called on.
        name: the function's name there.
        ours: called before it.
        said: cause and message for the log, should ours fail.
    """
    function = getattr(owner, name)

    def both(*args: Any, **options: Any) -> Any:
        with harmless(*said):
            ours(*args, **options)
        return function(*args, **options)

    bound = isinstance(vars(owner).get(name), classmethod | staticmethod)
    setattr(owner, name, staticmethod(both) if bound else both)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Have a function of a library called by one of ours, in place of an earlier one of ours.

    Args:
        owner: the module or class that the function is called on.
        name: the function's name there.
        around: called in its place, with the function and its arguments.
    """
    function = getattr(owner, name, None)
    if function is None:  # in a release to come
        warn_once(
            f"unwrapped {owner.__name__}.{name}",
            "%s has no %s() any more: texts of errors leave as the library makes them, whatever "
            "exception_text says",
            owner.__name__,
            name,
        )
        return
    function = getattr(function, "wrapped_by_usercontext", function)

    def wrapping(*args: Any, **options: Any) -> Any:
        return around(function, *args, **options)

    wrapping.wrapped_by_usercontext = function  # type: ignore[attr-defined]
    bound = isinstance(vars(owner).get(name), classmethod | staticmethod)
    setattr(owner, name, staticmethod(wrapping) if bound else wrapping)


def put_back_after(owner: Any, name: str, rehook: Callable[[], object]) -> None:
    """Have a function of a library followed by one of ours, in place of an earlier one of ours.

    So no request has to look whether the hooks are still there.

    Args:
        owner: the module or object that the function is called on.
        name: the function's name there.
        rehook: called after it; what it raises is logged once.
    """
    function = getattr(owner, name)
    if isinstance(function, _Followed):
        function = function.function
    setattr(owner, name, _Followed(function, rehook))


class _Followed:
    """A function of a library, and what we do after it."""

    def __init__(self, function: Callable[..., Any], rehook: Callable[[], object]) -> None:
        self.function = function
        self._put_back = rehook

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.function(*args, **options)
        with harmless("hooks put back", "a reporting client's hooks could not be put back"):
            self._put_back()
        return result


def processor(base: type, **calls: Callable[..., object]) -> Any:
    """Make a processor of a library's class, whose methods are functions of ours."""
    methods = {name: staticmethod(call) for name, call in calls.items()}
    return type(f"User{base.__name__}", (base,), methods)()
