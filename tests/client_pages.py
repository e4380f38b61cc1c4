"""Runs the page of a reporting client, then serves a request by each framework that it shows.

python tests/client_pages.py docs/clients/rollbar.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import snippets

import usercontext
from usercontext.clients.base import BaseClient

ADA = {"id": 1, "username": "ada"}


class Seen(BaseClient):
    """Notes who is pushed, beside the page's own client."""

    def __init__(self) -> None:
        self.names: list[str | None] = []

    def is_recording(self) -> bool:
        return True

    def set_user(self, user: Any, /) -> None:
        self.names.append(user and user.username)


def run(page: Path) -> None:
    """Run a page's blocks, and a request of ada's by FastAPI, Flask and Django."""
    clients: list[Any] = []
    init = usercontext.init

    def note_clients(*args: Any, **options: Any) -> Any:
        clients[:] = options.get("clients", clients)
        return init(*args, **options)

    usercontext.init = note_clients
    module = snippets.run(page)
    usercontext.init = init
    for visit in (visit_fastapi, visit_flask, visit_django):
        seen = Seen()
        init(None, clients=[*clients, seen])
        assert visit(module) == "ada", visit.__name__
        assert "ada" in seen.names, visit.__name__


def name_of_user() -> str | None:
    """Return who the current request's user is."""
    user = usercontext.get_user()
    return user and user.username


def visit_fastapi(module: Any) -> object:
    """Ask the page's FastAPI app who one is."""
    from starlette.testclient import TestClient

    module.fastapi_app.get("/me")(name_of_user)
    return TestClient(module.fastapi_app).get("/me").json()


def visit_flask(module: Any) -> object:
    """Ask the page's Flask app."""
    module.flask_app.add_url_rule("/me", view_func=lambda: name_of_user() or "")
    return module.flask_app.test_client().get("/me").text


class Ada:
    """A user of Django's, without a database."""

    pk, email, is_authenticated, is_anonymous = 1, "", True, False

    def get_username(self) -> str:
        return "ada"


def authenticate(get_response: Any) -> Any:
    """Log ada in: a middleware of Django's."""

    def middleware(request: Any) -> Any:
        request.user = Ada()
        return get_response(request)

    return middleware


def visit_django(module: Any) -> object:
    """Ask an app with the page's settings."""
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path

    module.authenticate = authenticate
    module.urlpatterns = [path("me", lambda request: HttpResponse(name_of_user()))]
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=module.INSTALLED_APPS,
        MIDDLEWARE=[*module.MIDDLEWARE, "page.authenticate"],
        ROOT_URLCONF="page",
        SECRET_KEY="none",
    )
    django.setup()
    return Client().get("/me").content.decode()


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
