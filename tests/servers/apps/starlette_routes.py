"""Every scene as routes of Starlette, which FastAPI takes as well."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable  # noqa: TC003
from typing import Any

from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette  # noqa: TC002 - FastAPI reads it
from starlette.background import BackgroundTasks
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request  # noqa: TC002 - FastAPI reads it
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import usercontext.asgi
import usercontext.frameworks.starlette

from . import scenes
from .outside import OutsideASGI


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: Request) -> Response:
        return JSONResponse(await scene(request.headers))

    return serve


def sync_endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene in Starlette's threadpool."""

    def serve(request: Request) -> Response:
        return JSONResponse(scene(request.headers))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve(request: Request) -> Response:
        scenes.set_if_asked(request.headers)
        return StreamingResponse(scene(request.headers), media_type="text/plain")

    return serve


async def whoami(request: Request) -> Response:
    """Say who it is after the body has been read."""
    await request.body()
    return JSONResponse(scenes.whoami(request.headers))


async def background(request: Request) -> Response:
    """Answer, then look at the user in background tasks."""
    later = BackgroundTasks()
    later.add_task(scenes.background, request.headers)
    later.add_task(scenes.background_thread, request.headers)
    return JSONResponse(scenes.whoami(request.headers), background=later)


async def file(request: Request) -> Response:
    """Answer with a file."""
    scenes.set_if_asked(request.headers)
    return FileResponse(scenes.FILE)


async def sub_requests(request: Request) -> Response:
    """Send requests to this very app."""
    return JSONResponse(await scenes.sub_requests(scenes.this_app(), request.headers))


async def thousand(request: Request) -> Response:
    """Send 1,000 requests to this very app."""
    return JSONResponse(await scenes.thousand(scenes.this_app().variants["/bare"]))


async def websocket(socket: WebSocket) -> None:
    """Answer each message with who is seen."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await scenes.websocket_answer(await socket.receive_text()))
    except WebSocketDisconnect:
        pass
    finally:
        scenes.observe(socket.headers, "closed", scenes.who())


async def on_handled(request: Request, error: Exception) -> Response:
    """Answer for an error that the app handles."""
    return JSONResponse(scenes.report_handled(error), status_code=409)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer for every other error, outside all middlewares that were added."""
    seen = {"request": scenes.who(request=request), "error": scenes.who(error=error)}
    return JSONResponse(seen, status_code=500)


async def inner_middleware(request: Request, call_next: Any) -> Response:
    """Tell whom a middleware inside ours sees when the endpoint is done."""
    response: Response = await call_next(request)
    if request.url.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


async def outer_middleware(request: Request, call_next: Any) -> Response:
    """Tell whom a middleware outside ours finds by the request."""
    response: Response = await call_next(request)
    if request.url.path != "/idle":
        response.headers["x-outer-middleware"] = str(scenes.who(request=request))
    return response


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
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


def mounts() -> list[Any]:
    """Mount apps of both kinds, with our middleware inside and without a resolver or with one."""
    return [
        *(Mount(path, app) for path, app in scenes.mounted_asgi_apps().items()),
        *(Mount(path, WSGIMiddleware(app)) for path, app in scenes.mounted_wsgi_apps().items()),
    ]


WEBSOCKET = WebSocketRoute("/websocket", websocket)
ERRORS: dict[Any, Any] = {scenes.HandledError: on_handled, Exception: on_error}


def add_middlewares(app: Starlette, *, times: int) -> None:
    """Add ours so many times, with a middleware of the app inside and one outside of it."""
    app.add_middleware(BaseHTTPMiddleware, dispatch=inner_middleware)
    for _ in range(times):
        app.add_middleware(usercontext.asgi.UserContextMiddleware, resolver=scenes.resolver)
    app.add_middleware(BaseHTTPMiddleware, dispatch=outer_middleware)


def serve(build: Callable[[], Starlette]) -> OutsideASGI:
    """Return the app with ours added once, twice, or in its native form around all of it."""
    once, twice, wrapped, bare = build(), build(), build(), build()
    add_middlewares(once, times=1)
    add_middlewares(twice, times=2)
    add_middlewares(wrapped, times=0)
    usercontext.frameworks.starlette.UserContext(wrapped, resolver=scenes.resolver)
    # Without Starlette's own middlewares, each of which makes a request ten times as slow.
    bare.add_middleware(usercontext.asgi.UserContextMiddleware, resolver=scenes.resolver)
    return OutsideASGI(once, {"/twice": twice, "/wrapped": wrapped, "/bare": bare})
