"""Serve a request, around a handler, with reporting clients on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.driver import asgi_request, plain_asgi_app, plain_wsgi_app, wsgi_request
from usercontext import asgi, wsgi

__all__ = ["BOTH", "serve"]

BOTH = pytest.mark.parametrize("interface", ["asgi", "wsgi"])


def serve(interface: str, handler: Any, *clients: Any, **options: Any) -> None:
    """Serve one request over an interface."""
    if clients:
        options["clients"] = list(clients)
    if interface == "asgi":
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), **options))
    else:
        wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), **options))
