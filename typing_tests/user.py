"""How users of usercontext write `User`, checked by type checkers and never run."""

from __future__ import annotations

from typing import assert_type

from usercontext.user import User

user = User(42, "ann", email="ann@example.org", plan="gold")

assert_type(user.id, str | None)
assert_type(user.identity, str | None)
assert_type(user.with_fields(email=None), User)
assert_type(User.of({"id": 42}), User | None)

User(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
user.id = "43"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
