"""Run by test_sentry_sdk.py: Django, whose integration of sentry-sdk fills in its own user."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

import django
import sentry_sdk
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import path
from sentry_sdk.integrations.django import DjangoIntegration

from tests.clients.sentry_sdk_kept import IS_3, of_version
from tests.driver import asgi_call, environ_of, scope_of, wsgi_request
from usercontext import RequestData, asgi, init, wsgi
from usercontext.clients.sentry_sdk import SentrySdkClient


class Bob:
    """Who Django says has logged in."""

    is_authenticated = True
    pk = id = 9
    email = "bob@shop.example"

    @staticmethod
    def get_username() -> str:
        return "bob"


def log_in(get_response: Any) -> Any:
    """Name Django's user, as its own middleware does."""

    def middleware(request: Any) -> Any:
        request.user = Bob()
        return get_response(request)

    return middleware


def cart(_request: Any) -> Any:
    """Fail as a view does."""
    raise LookupError("no such order")


urlpatterns = [path("cart", cart)]


def main(interface: str, order: str) -> None:
    """Serve one request; print the user and the address of each event."""
    warnings.simplefilter("ignore")
    kept: list[Any] = []

    def keep(event: Any, _hint: object) -> None:
        kept.append([event.get("user"), event["request"].get("env", {}).get("REMOTE_ADDR")])

    sentry_sdk.init(
        "https://key@sentry.example/1",
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[DjangoIntegration()],
        before_send=keep,
        **of_version({"send_default_pii": True, "traces_sample_rate": 1.0}),
        **({} if IS_3 else {"before_send_transaction": keep}),
    )
    options: Any = {
        "clients": [SentrySdkClient()],
        "resolver": lambda _: {"id": 1},
        "request_data": RequestData(include_ip=True),
    }
    ours = "usercontext.frameworks.django.UserContextMiddleware"
    settings.configure(
        SECRET_KEY="x",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[*([ours] if order == "inside" else []), f"{__name__}.log_in"],
        LOGGING_CONFIG=None,
    )
    django.setup()
    if order == "inside":
        init(None, **options)
    app: Any = get_asgi_application() if interface == "asgi" else get_wsgi_application()
    if order == "outside":
        app = (asgi if interface == "asgi" else wsgi).UserContextMiddleware(app, **options)
    if interface == "asgi":
        asyncio.run(asgi_call(app, scope_of(x_forwarded_for="6.6.6.6")))
    else:
        wsgi_request(app, environ_of(x_forwarded_for="6.6.6.6"))
    print(json.dumps(kept))


if __name__ == "__main__":
    main(*sys.argv[1:])
