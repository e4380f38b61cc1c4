"""An app that is wrapped in the other kind's middleware is refused, when it is wrapped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from usercontext import ConfigurationError, asgi, wsgi
from usercontext.core.interface import check_interface


def wsgi_app(environ: Any, start_response: Any) -> Any:
    """Stand for an app of WSGI."""


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an app of ASGI."""


class WsgiApp:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer."""


class AsgiApp:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""


@pytest.mark.parametrize("app", [wsgi_app, WsgiApp(), WsgiApp().__call__], ids=repr)
def test_a_wsgi_app_in_the_asgi_middleware(app: Any) -> None:
    """The error names the middleware to import instead."""
    wsgi.UserContextMiddleware(app)

    with pytest.raises(ConfigurationError, match=r"`from usercontext\.wsgi import User"):
        asgi.UserContextMiddleware(app)


@pytest.mark.parametrize("app", [asgi_app, AsgiApp(), partial(asgi_app)], ids=repr)
def test_an_asgi_app_in_the_wsgi_middleware(app: Any) -> None:
    """The error names the middleware to import instead."""
    asgi.UserContextMiddleware(app)

    with pytest.raises(ConfigurationError, match=r"`from usercontext\.asgi import User"):
        wsgi.UserContextMiddleware(app)


@pytest.mark.parametrize(
    "app", [lambda *_: None, lambda *_args, **_options: None, lambda a, b, c=None: (a, b, c), min],
    ids=["any", "any named", "either", "of C"],
)  # fmt: skip
def test_an_app_of_either_kind(app: Any) -> None:
    """What may be right is never refused."""
    check_interface(app, "ASGI")
    check_interface(app, "WSGI")
