"""How FastAPI endpoints take the user, checked by type checkers and never run."""

from __future__ import annotations

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI

from usercontext.frameworks.fastapi import (
    CurrentUser,
    RequiredUser,
    RequireUser,
    UserContext,
    recorded,
    request_user,
)
from usercontext.user import User


class Account:
    """A model of the app's own."""


def account_of() -> Account:
    """Find the account."""
    return Account()


async def endpoint(
    current: CurrentUser,
    required: RequiredUser,
    basic: Annotated[User, Depends(RequireUser("Basic"))],
    account: Annotated[Account, Depends(recorded(account_of))],
) -> None:
    """Take the user in every form."""
    assert_type(current, User | None)
    assert_type(required, User)
    assert_type(basic, User)
    assert_type(account, Account)


app = FastAPI()
UserContext(app, resolver=request_user)
UserContext(resolver=request_user).init_app(app)
UserContext(app, resolve="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
