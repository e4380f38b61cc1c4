"""Every scene on Emmett, with our extension."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from a2wsgi import WSGIMiddleware
from emmett import App, Pipe, request, response

import usercontext.asgi
import usercontext.frameworks.emmett

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()
logging.disable()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)
_METHODS = ["get", "head", "post"]


class Hooks(Pipe):  # type: ignore[misc]
    """Answer for errors that the app handles, and look at the user when the endpoint is done."""

    async def pipe(self, next_pipe: Any, **params: Any) -> Any:
        """Run the endpoint."""
        try:
            return await next_pipe(**params)
        except scenes.HandledError as error:
            response.status = 409
            return as_json(scenes.report_handled(error))
        finally:
            if request.path != "/idle":
                response.headers["x-middleware"] = str(scenes.who())


def headers_of(request: Any) -> dict[str, str]:
    """Return headers that outlive their request, in lower case."""
    return {key.lower(): value for key, value in request.headers.items()}


def as_json(answer: Any) -> str:
    """Return what Emmett sends as it is."""
    response.headers["content-type"] = "application/json"
    return json.dumps(answer)


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve() -> str:
        return as_json(await scene(headers_of(request)))

    return serve


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    async def serve() -> str:
        return as_json(scene(headers_of(request)))

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    async def serve() -> str:
        headers = headers_of(request)
        asyncio.get_running_loop().set_default_executor(_threads)
        return as_json(await asyncio.to_thread(scene, headers))

    return serve


async def whoami() -> str:
    """Say who it is after the body has been read."""
    await request.body
    return as_json(scenes.whoami(headers_of(request)))


async def sub_requests() -> str:
    """Send requests to this very app."""
    return as_json(await scenes.sub_requests(scenes.this_app(), headers_of(request)))


async def thousand() -> str:
    """Send 1,000 requests to this very app."""
    return as_json(await scenes.thousand(scenes.this_app()))


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(one) for path, one in scenes.ASYNC.items() if path != "/lifespan"},
    "/whoami": whoami,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}


def build() -> Any:
    """Build the app with our extension."""
    app = App(__name__)
    app.pipeline = [Hooks()]
    served = usercontext.frameworks.emmett.UserContext(app, resolver=scenes.resolver)
    for path, serve in ROUTES.items():
        app.route(path.lstrip("/"), name=path.strip("/").replace("-", "_"), methods=_METHODS)(serve)
    wsgi = {path: WSGIMiddleware(one) for path, one in scenes.mounted_wsgi_apps().items()}
    served.app = scenes.Paths(app, {**scenes.mounted_asgi_apps(), **wsgi})
    return served


twice = usercontext.asgi.UserContextMiddleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(build(), {"/twice": twice}))
