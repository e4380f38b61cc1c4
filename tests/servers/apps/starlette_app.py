"""Every scene on Starlette, our middleware added with `add_middleware`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from . import scenes, starlette_routes

scenes.start()


def build() -> Starlette:
    """Build the app."""
    routes = [
        Route(path, view, methods=["GET", "POST"]) for path, view in starlette_routes.ROUTES.items()
    ]
    return Starlette(
        routes=[*starlette_routes.mounts(), *routes, starlette_routes.WEBSOCKET],
        lifespan=starlette_routes.lifespan,
        exception_handlers=starlette_routes.ERRORS,
    )


application = scenes.publish(starlette_routes.serve(build))
