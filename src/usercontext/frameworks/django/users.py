"""Who Django says makes a request: the ready resolver."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.db import InternalError
from django.db.transaction import TransactionManagementError
from django.utils.functional import LazyObject, empty

from usercontext import event_loop
from usercontext.core.following import NOT_YET, follows
from usercontext.frameworks.django.impersonation import impersonator_of, mark_of, may_impersonate
from usercontext.user import User

if TYPE_CHECKING:
    from django.http import HttpRequest

    from usercontext.core.following import Places

__all__ = ["in_foreign_thread", "is_read", "request_user"]

#: Set while code runs in a thread that Django makes no queries in: a connection opened there
#: would stay open, and see nothing of the transaction that a test runs in.
in_foreign_thread: Final[ContextVar[bool]] = ContextVar(
    "usercontext.django.in_foreign_thread", default=False
)


_SEEN = "_usercontext_seen"  # where a request keeps what `_held` last made of an impersonation


def _held(_source: object, request: Any) -> object:
    if request is None:
        return NOT_YET
    user = _found(request)
    if user is NOT_YET:
        return NOT_YET
    mark = mark_of(request)
    # An impersonation begins and ends after the user has changed: it counts for what is seen.
    return user if mark is None else _with_mark(vars(request), user, mark)


def _with_mark(own: dict[str, Any], user: object, mark: object) -> object:
    """Return one and the same object as long as both are the same."""
    seen = own.get(_SEEN)
    if seen is None or seen[0] is not user or seen[1] != mark:
        seen = own[_SEEN] = (user, mark)
    return seen


def _found(request: Any) -> Any:
    """Return the user that Django has found already; NOT_YET where nobody has asked it."""
    own = vars(request)
    user = own.get("user", NOT_YET)
    if not issubclass(type(user), LazyObject):
        if user is not NOT_YET:
            return user
    elif user._wrapped is not empty:
        return user._wrapped
    found = own.get("_acached_user", NOT_YET)
    return own.get("_cached_user", NOT_YET) if found is NOT_YET else found


def _places(_source: object, request: Any) -> Places:
    own = vars(request)
    user = own.get("user")
    if may_impersonate():
        return []  # it may begin and end without another user
    if not issubclass(type(user), LazyObject):
        return [(own, "user")]
    return [(own, "user"), (vars(user), "_wrapped"), (own, "_acached_user"), (own, "_cached_user")]


@follows(_held, _places)
def request_user(request: HttpRequest) -> object:
    """Return who Django says makes a request, as far as that is known here: a ready resolver.

    What somebody has put in `request.user` (`login()`, Django REST framework) comes first, then
    what `await request.auser()` and `request.user` have found already. `request.user` itself is
    read in sync code only, since in async code it raises SynchronousOnlyOperation: there the
    question stays open, and the middleware awaits `request.auser()` at the end of the request
    if a report waits for the answer. It stays open, too, in a transaction that is broken.

    The user that Django holds is followed: a login, a logout, a token beside the session. Who acts
    in another user's name by django-hijack or django-loginas is named as the extra `impersonator`.
    """
    user = _found(request)
    if user is NOT_YET and not (event_loop.is_running() or in_foreign_thread.get()):
        user = _read(request)
    return _named(request, user)


def _named(request: HttpRequest, user: Any) -> object:
    """Return a user with who acts in their name."""
    impersonator = None if user is NOT_YET else impersonator_of(request, user)
    named = None if impersonator is None else User.of(user)
    return user if named is None else named.with_fields(impersonator=impersonator)


def is_read(user: Any) -> bool:
    """Return whether reading a user asks nobody."""
    return not issubclass(type(user), LazyObject) or user._wrapped is not empty


def _read(request: Any) -> object:
    try:
        user = getattr(request, "user", NOT_YET)
        # Here, where a failure is understood, the query is made.
        _ = getattr(user, "is_authenticated", None)
    except (TransactionManagementError, InternalError):
        # The transaction is broken, and no query possible before it is over.
        return NOT_YET
    return user


async def _await_user(request: Any) -> object:
    """Return the same in async code, where there is time to ask."""
    user = request_user(request)
    if user is not NOT_YET:
        return user
    ask = getattr(request, "auser", None)
    user = None if ask is None else await ask()
    if user is None or not user.is_authenticated:
        # Django 4.2, or a middleware that puts a lazy user of its own into `request.user`.
        user = await sync_to_async(_read)(request)
    return _named(request, user)


# Where a task awaits the user of a request, it awaits this.
request_user.__dict__["async_resolver"] = _await_user
