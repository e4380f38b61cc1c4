"""Loaders that batch what the resolvers of GraphQL ask for: one belongs to one request.

One that several requests share loads for all of them in the context of whoever asked first, and
what it keeps outlives them. Nothing tells that but its use: so each notes whose it was.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from usercontext.core.record import KEY, RequestRecord, current
from usercontext.diagnostics import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["watch_loaders"]

_MODULES: Final = ("strawberry.dataloader", "aiodataloader")
_MARK: Final = "_usercontext_calls"


def watch_loaders() -> None:
    """Note of every loader whose request it serves, in the libraries that are loaded by now."""
    for name in _MODULES:
        kind: Any = getattr(sys.modules.get(name), "DataLoader", None)
        if kind is not None and not hasattr(kind.load, _MARK):
            kind.load = _noting(kind.load)


def _noting(load: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(load)
    def load_noted(loader: Any, *args: Any, **options: Any) -> Any:
        record = current()
        if record is not None:
            _note(loader, record.root)
        return load(loader, *args, **options)

    setattr(load_noted, _MARK, True)
    return load_noted


def _note(loader: Any, root: RequestRecord) -> None:
    # Operations on one websocket may share a loader, as they share its context.
    found = None if root.source is None else root.source.get(KEY)
    owner = found if isinstance(found, RequestRecord) else root
    noted = loader.__dict__.get(_MARK)
    if noted is None:
        setattr(loader, _MARK, ref(owner))
    elif noted() is not owner:
        warn_once(
            "shared DataLoader",
            "a DataLoader is shared by several requests: it loads for all of them as the user of "
            "whoever asked first, and what it keeps is given to the others: make one for each "
            "request, where its context value is made",
        )
