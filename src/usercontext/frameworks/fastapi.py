"""FastAPI: what Starlette's module has, and the current user as a typed dependency."""

# No postponed annotations here: FastAPI could not read those that name a local variable.

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from usercontext.core.current import resolve_user, set_user
from usercontext.core.record import UNKNOWN, current
from usercontext.diagnostics import warn_once
from usercontext.frameworks.base import identity_of
from usercontext.optional import importing
from usercontext.user import User

with importing("fastapi", "fastapi", purpose="usercontext.frameworks.fastapi"):
    from fastapi import Depends, HTTPException

    from usercontext.frameworks.starlette import UserContext, request_user

__all__ = [
    "CurrentUser",
    "RequireUser",
    "RequiredUser",
    "UserContext",
    "recorded",
    "request_user",
]


#: The current user, or None; an async resolver is awaited. Asked again at each place, so that it
#: sees what another dependency has set meanwhile.
CurrentUser: TypeAlias = Annotated[User | None, Depends(resolve_user, use_cache=False)]


class RequireUser:
    """Hand over the current user, or answer 401 where there is none: a dependency.

    A user with nothing but an address is none. As far as the resolver is to be trusted, so is
    this: what it takes from a token has to be verified there.

    In tests `app.dependency_overrides[resolve_user]` reaches it and `CurrentUser`, with the
    `resolve_user` of `usercontext`; `app.dependency_overrides[RequireUser()]` reaches it alone.

    Args:
        challenge: the header `WWW-Authenticate`, which a 401 must have (RFC 9110, 15.5.2).
    """

    def __init__(self, challenge: str = "Bearer") -> None:
        self._headers = {"WWW-Authenticate": challenge}

    def __eq__(self, other: object) -> bool:
        return type(other) is RequireUser and other._headers == self._headers

    def __hash__(self) -> int:
        return hash(self._headers["WWW-Authenticate"])

    async def __call__(self, user: CurrentUser) -> User:
        """Return the user, which FastAPI gets from `resolve_user`, or what overrides that."""
        if user is None or not (user.id or user.username or user.email):
            _say_why_nobody_is_let_in()
            raise HTTPException(401, "Not authenticated", headers=self._headers)
        return user


def _say_why_nobody_is_let_in() -> None:
    record = current()
    if record is None:
        what = "no UserContext(app) goes around this app"
    elif record.settings.resolver is None and record.user is UNKNOWN:
        what = "there is no resolver, and nothing has called set_user()"
    else:
        return
    message = "RequiredUser answers 401: %s; write UserContext(app, resolver=find_user)"
    warn_once(f"RequiredUser: {what}", message, what)


#: The current user; where there is none, the answer is a 401 that asks for a Bearer token.
RequiredUser: TypeAlias = Annotated[User, Depends(RequireUser(), use_cache=False)]


def recorded(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """Make a dependency of one that finds the user, which sets them for the whole request.

    `Depends(recorded(account_of_token))` is for apps whose dependencies authenticate, where no
    resolver could. It gives what the other one gives; None means explicitly nobody. Only who it
    is gets reported, never the whole model. An error before it has run has no user yet.

    Args:
        dependency: one of any form that FastAPI takes, with dependencies of its own.
    """

    async def record(user: Annotated[Any, Depends(dependency)]) -> Any:
        set_user(identity_of(user))
        return user

    return record
