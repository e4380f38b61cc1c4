"""Every scene on Django over ASGI, our middleware around it and in its `MIDDLEWARE`."""

from __future__ import annotations

from typing import Any

from a2wsgi import WSGIMiddleware
from django.core.asgi import get_asgi_application

import usercontext.asgi

from . import django_views, scenes
from .outside import OutsideASGI

scenes.start()
django_views.configure()
django_views.urlpatterns = django_views.async_urlpatterns + django_views.urlpatterns

django_application = get_asgi_application()
middleware = usercontext.asgi.UserContextMiddleware
mounted: dict[str, Any] = {
    **scenes.mounted_asgi_apps(),
    **{path: WSGIMiddleware(app) for path, app in scenes.mounted_wsgi_apps().items()},
}
django_and_mounted = scenes.Paths(django_application, mounted)


async def routed(scope: Any, receive: Any, send: Any) -> None:
    """Add to Django what it does not serve: lifespan, websockets, mounted apps."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await scenes.websocket(scope, receive, send)
    else:
        await django_and_mounted(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    """Look at the user where there is no request."""
    await receive()
    task = await scenes.lifespan_starts()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    task.cancel()
    await send({"type": "lifespan.shutdown.complete"})


once = middleware(routed, resolver=scenes.resolver)
application = scenes.publish(
    OutsideASGI(
        once,
        # Bare, only the middleware in `MIDDLEWARE` is there, and Django's own users.
        {"/twice": middleware(once, resolver=scenes.resolver), "/bare": django_application},
    )
)
