"""Every scene on Robyn, with our extension."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from robyn import Request, Response, Robyn

import usercontext.frameworks.robyn

from . import scenes
from .outside import watched

if TYPE_CHECKING:
    from collections.abc import Callable

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)

scenes.start()
logging.disable()


def resolver(request: Request) -> dict[str, str] | None:
    """Find the user of a request."""
    return scenes.resolver(request)


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers by their names."""
    return {name: values[-1] for name, values in request.headers.get_headers().items()}


def as_response(answer: Any, headers: dict[str, str]) -> Response:
    """Return what Robyn sends as JSON."""
    told = {"content-type": "application/json", **headers}
    return Response(200, told, json.dumps(answer))


def around(serve: Callable[..., Any]) -> Callable[..., Any]:
    """Look at the user around our part of a request, and end its reports."""

    @functools.wraps(serve)
    async def watching(request: Request) -> Response:
        async with watched(headers_of(request)) as outside:
            response = await serve(request=request)
            for name, value in outside.items():
                response.headers.set(name, value)
            return response

    return watching


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    async def serve(request: Request) -> Response:
        headers = headers_of(request)
        answer = scene(headers)
        told = {} if request.url.path == "/idle" else {"x-middleware": str(scenes.who())}
        return as_response(answer, told)

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    def serve(request: Request) -> Response:
        return as_response(scene(headers_of(request)), {})

    return serve


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: Request) -> Response:
        return as_response(await scene(headers_of(request)), {})

    return serve


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(one) for path, one in scenes.ASYNC.items() if path != "/lifespan"},
    "/whoami": plain(scenes.whoami),
}


async def start_threads() -> None:
    """Give sync handlers threads enough."""
    asyncio.get_running_loop().set_default_executor(_threads)


def build() -> Robyn:
    """Build the application."""
    app = Robyn(__file__)
    # Around ours, as nothing of Robyn's own is.
    app.__class__ = type("Watched", (Robyn,), {"add_route": _watched(Robyn.add_route)})
    usercontext.frameworks.robyn.UserContext(app, resolver=resolver)
    app.startup_handler(start_threads)
    for path, serve in ROUTES.items():
        app.get(path)(serve)
        app.post(path)(serve)
        app.head(path)(serve)
    return app


def _watched(add_route: Any) -> Any:
    def add(
        self: Any, route_type: Any, endpoint: Any, handler: Any, *more: Any, **options: Any
    ) -> Any:
        watched = around(handler) if endpoint in ROUTES else handler
        return add_route(self, route_type, endpoint, watched, *more, **options)

    return add


if __name__ == "__main__":
    build().start(host="127.0.0.1", port=int(sys.argv[1]))
