"""Django: the request's own user, and the errors that Django turns into responses itself.

In `MIDDLEWARE` stands `usercontext.frameworks.django.UserContextMiddleware`; in `INSTALLED_APPS`
`usercontext.frameworks.django`, for the system checks.
"""

from __future__ import annotations

from usercontext.optional import importing

with importing("django", "django", purpose="usercontext.frameworks.django"):
    from usercontext.frameworks.django.middleware import UserContextMiddleware
    from usercontext.frameworks.django.users import request_user

__all__ = ["UserContextMiddleware", "request_user"]
