"""Every scene on Connexion, with our extension."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import connexion
from a2wsgi import WSGIMiddleware
from connexion import AsyncApp
from connexion.lifecycle import ConnexionResponse
from connexion.middleware import MiddlewarePosition
from starlette.background import BackgroundTasks
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

import usercontext.asgi
from usercontext.frameworks.connexion import UserContext

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

scenes.start()


def headers_of() -> dict[str, str]:
    """Return headers that outlive their request, in lower case."""
    return {key.lower(): value for key, value in connexion.request.headers.items()}


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve() -> Response:
        return JSONResponse(await scene(headers_of()))

    return serve


def sync_endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread of Connexion's."""
    return lambda: JSONResponse(scene(headers_of()))


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve() -> Response:
        headers = headers_of()
        scenes.set_if_asked(headers)
        return StreamingResponse(scene(headers), media_type="text/plain")

    return serve


async def whoami() -> Response:
    """Say who it is after the body has been read."""
    await connexion.request.body()
    return JSONResponse(scenes.whoami(headers_of()))


async def background() -> Response:
    """Answer, then look at the user in background tasks."""
    headers = headers_of()
    later = BackgroundTasks()
    later.add_task(scenes.background, headers)
    later.add_task(scenes.background_thread, headers)
    return JSONResponse(scenes.whoami(headers), background=later)


async def file() -> Response:
    """Answer with a file."""
    scenes.set_if_asked(headers_of())
    return FileResponse(scenes.FILE)


async def sub_requests() -> Response:
    """Send requests to this very app."""
    return JSONResponse(await scenes.sub_requests(scenes.this_app(), headers_of()))


async def thousand() -> Response:
    """Send 1,000 requests to this very app."""
    return JSONResponse(await scenes.thousand(scenes.this_app()))


def on_handled(request: Any, error: Exception) -> ConnexionResponse:
    """Answer for an error that the app handles."""
    answer = JSONResponse(scenes.report_handled(error)).body
    return ConnexionResponse(status_code=409, mimetype="application/json", body=answer)


async def look(request: Any, call_next: Any) -> Response:
    """Tell whom a middleware inside ours sees when the endpoint is done."""
    response: Response = await call_next(request)
    if request.url.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Look at the user where there is no request."""
    task = await scenes.lifespan_starts()
    yield
    task.cancel()


ROUTES: dict[str, Any] = {
    **{path: sync_endpoint(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in (scenes.STREAMS | scenes.SYNC_STREAMS).items()},
    "/whoami": whoami,
    "/background": background,
    "/file": file,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}


def _operations(path: str) -> dict[str, Any]:
    answer = {"operationId": path, "responses": {"200": {"description": "who is seen"}}}
    body = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    return {"get": answer, "head": answer, "post": answer | {"requestBody": body}}


SPECIFICATION = {
    "openapi": "3.0.0",
    "info": {"title": "Matrix", "version": "1"},
    "paths": {path: _operations(path) for path in ROUTES},
}


def below() -> dict[str, Any]:
    """Return the apps beside Connexion, which has no mounting of its own."""
    wsgi = {path: WSGIMiddleware(app) for path, app in scenes.mounted_wsgi_apps().items()}
    return scenes.mounted_asgi_apps() | wsgi


def build() -> AsyncApp:
    """Build the app."""
    app = AsyncApp(__name__, lifespan=lifespan)
    UserContext(app, resolver=scenes.resolver)
    app.add_error_handler(scenes.HandledError, on_handled)
    app.add_middleware(scenes.Paths, position=MiddlewarePosition.BEFORE_SWAGGER, apps=below())
    app.add_middleware(
        BaseHTTPMiddleware, position=MiddlewarePosition.BEFORE_ROUTING, dispatch=look
    )
    app.add_api(SPECIFICATION, resolver=connexion.Resolver(ROUTES.__getitem__))
    return app


twice = usercontext.asgi.UserContextMiddleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(build(), {"/twice": twice}))
