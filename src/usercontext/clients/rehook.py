"""Hooks of ours that a library forgets when it is set up late: they are put back at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["put_back_after"]


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
