"""Who Django says makes a request: the ready resolver."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.db import InternalError
from django.db.transaction import TransactionManagementError
from django.utils.functional import LazyObject, empty

from usercontext import event_loop
from usercontext.core.record import UNKNOWN

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = ["in_foreign_thread", "is_read", "request_user"]

#: Set while code runs in a thread that Django makes no queries in: a connection opened there
#: would stay open, and see nothing of the transaction that a test runs in.
in_foreign_thread: Final[ContextVar[bool]] = ContextVar(
    "usercontext.django.in_foreign_thread", default=False
)


def request_user(request: HttpRequest) -> object:
    """Return who Django says makes a request, as far as that is known here: a ready resolver.

    What somebody has put in `request.user` (`login()`, Django REST framework) comes first, then
    what `await request.auser()` and `request.user` have found already. `request.user` itself is
    read in sync code only, since in async code it raises SynchronousOnlyOperation: there the
    question stays open, and the middleware awaits `request.auser()` at the end of the request
    if a report waits for the answer. It stays open, too, in a transaction that is broken.
    """
    found = vars(request)
    user = found.get("user", UNKNOWN)
    if user is not UNKNOWN and is_read(user):
        return user
    for name in ("_acached_user", "_cached_user"):
        if name in found:
            return found[name]
    if event_loop.is_running() or in_foreign_thread.get():
        return UNKNOWN
    return _read(request)


def is_read(user: Any) -> bool:
    """Return whether reading a user asks nobody."""
    return not issubclass(type(user), LazyObject) or user._wrapped is not empty


def _read(request: Any) -> object:
    try:
        user = getattr(request, "user", UNKNOWN)
        # Here, where a failure is understood, the query is made.
        _ = getattr(user, "is_authenticated", None)
    except (TransactionManagementError, InternalError):
        # The transaction is broken, and no query possible before it is over.
        return UNKNOWN
    return user


async def _await_user(request: Any) -> object:
    """Return the same in async code, where there is time to ask."""
    user = request_user(request)
    if user is not UNKNOWN:
        return user
    ask = getattr(request, "auser", None)
    user = None if ask is None else await ask()
    if user is not None and user.is_authenticated:
        return user
    # Django 4.2, or a middleware that puts a lazy user of its own into `request.user`.
    return await sync_to_async(_read)(request)


# Where a task awaits the user of a request, it awaits this.
request_user.__dict__["async_resolver"] = _await_user
