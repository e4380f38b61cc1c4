"""A Django project for tests: authentication, sessions and a database, but no views.

Django has its settings once per process: every test module of Django's imports these, and puts
its own `ROOT_URLCONF` and `MIDDLEWARE` over them with `override_settings`.
"""

from __future__ import annotations

import asyncio
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections

from tests.driver import asgi_call, environ_of, scope_of, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AUTHENTICATION",
    "OURS",
    "log_in",
    "migrate",
    "serve_asgi",
    "serve_wsgi",
    "status_of",
]

OURS = "usercontext.frameworks.django.UserContextMiddleware"
AUTHENTICATION = [
    OURS,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

# A file, as an in-memory database belongs to one thread. Removed with the process.
_directory = tempfile.TemporaryDirectory()

if not settings.configured:
    acting = ("django.contrib.admin", "loginas")  # which writes into the admin's log
    optional = ("rest_framework", "rest_framework.authtoken")
    settings.configure(
        SECRET_KEY="not a secret: these are tests, and PyJWT wants it to be long",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.frameworks.django_project",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "usercontext.frameworks.django",
            *(app for app in optional if find_spec("rest_framework")),
            *(app for app in ("hijack",) if find_spec(app)),
            *(app for app in acting if find_spec("loginas")),
        ],
        MIDDLEWARE=AUTHENTICATION,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(Path(_directory.name) / "db.sqlite3"),
            }
        },
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()

urlpatterns: list[Any] = []


def migrate() -> None:
    """Make the tables, unless they are there."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def log_in(name: str) -> str:
    """Return the cookie of somebody who has logged in."""
    from django.contrib.auth.models import User
    from django.test import Client

    account, _ = User.objects.get_or_create(username=name, email=f"{name}@shop.example")
    client = Client()
    client.force_login(account)
    return f"sessionid={client.cookies['sessionid'].value}"


def serve_wsgi(
    target: str, *, wrap: Callable[[Any], Any] = lambda app: app, **headers: str
) -> bytes:
    """Serve one request by Django's WSGI handler, with the settings of this moment."""
    environ = {**environ_of(**headers), "PATH_INFO": f"/{target}"}
    return wsgi_request(wrap(WSGIHandler()), environ)


def serve_asgi(
    target: str, *, wrap: Callable[[Any], Any] = lambda app: app, **headers: str
) -> list[dict[str, Any]]:
    """Serve one request by Django's ASGI handler; return the messages it sent."""
    scope = {**scope_of(**headers), "path": f"/{target}"}
    return asyncio.run(_serve(wrap, scope))


async def _serve(wrap: Callable[[Any], Any], scope: dict[str, Any]) -> list[dict[str, Any]]:
    handler = _Handler()
    try:
        return await asgi_call(wrap(handler), scope)
    finally:
        handler.body.close()
        await sync_to_async(connections.close_all)()


class _Handler(ASGIHandler):  # type: ignore[misc]
    """Before 6.0 Django leaves the body of a request whose stream fails to the collector."""

    async def read_body(self, receive: Any) -> Any:
        self.body = await super().read_body(receive)
        return self.body


def status_of(messages: list[dict[str, Any]]) -> int:
    """Return the status that an ASGI app has answered with."""
    status: int = messages[0]["status"]
    return status
