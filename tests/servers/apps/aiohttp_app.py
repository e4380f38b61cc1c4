"""Every scene on aiohttp, set up by our module and run by its own server or by gunicorn."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import web

from usercontext.frameworks.aiohttp import setup

from . import scenes
from .outside import watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

scenes.start()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)
_tasks: set[asyncio.Task[Any]] = set()


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: web.Request) -> web.Response:
        return web.json_response(await scene(request.headers))

    return serve


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    async def serve(request: web.Request) -> web.Response:
        return web.json_response(scene(request.headers))

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    async def serve(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(scene, request.headers))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields, as a body that is made when it is sent."""

    async def serve(request: web.Request) -> web.Response:
        scenes.set_if_asked(request.headers)
        return web.Response(body=scene(request.headers), content_type="text/plain")

    return serve


async def whoami(request: web.Request) -> web.Response:
    """Say who it is after the body has been read."""
    await request.read()
    return web.json_response(scenes.whoami(request.headers))


def start_task(work: Any) -> None:
    """Start a task that outlives its request."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def background(request: web.Request) -> web.Response:
    """Answer, then look at the user in background tasks."""
    answer = web.json_response(scenes.whoami(request.headers))
    start_task(scenes.background(request.headers))
    start_task(asyncio.to_thread(scenes.background_thread, request.headers))
    return answer


async def file(request: web.Request) -> web.FileResponse:
    """Answer with a file."""
    scenes.set_if_asked(request.headers)
    return web.FileResponse(scenes.FILE)


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Answer each message with who is seen."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(await scenes.websocket_answer(message.data))
    scenes.observe(request.headers, "closed", scenes.who())
    return socket


@web.middleware
async def outside(request: web.Request, handler: Any) -> web.StreamResponse:
    """Look at the user around ours, where aiohttp's own code calls it."""
    async with watched(request.headers) as headers:
        try:
            response: web.StreamResponse = await handler(request)
        except Exception as error:
            scenes.observe(request.headers, "outer reporter", scenes.who(error=error))
            raise
        if not response.prepared:
            seen = {"x-outer-middleware": str(scenes.who(request=request))}
            response.headers.update(headers if request.path == "/idle" else headers | seen)
        return response


@web.middleware
async def inside(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer for an error that the app handles; tell whom a middleware inside ours sees."""
    try:
        response: web.StreamResponse = await handler(request)
    except scenes.HandledError as error:
        response = web.json_response(scenes.report_handled(error), status=409)
    if not response.prepared and request.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


async def lifespan(app: web.Application) -> AsyncIterator[None]:
    """Give the scenes threads enough, and look at the user where there is no request."""
    asyncio.get_running_loop().set_default_executor(_threads)
    task = await scenes.lifespan_starts()
    yield
    task.cancel()


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in scenes.STREAMS.items()},
    "/whoami": whoami,
    "/background": background,
    "/file": file,
    "/websocket": websocket,
}


def build() -> web.Application:
    """Build the app, with the same app once more below it."""
    app, twice = web.Application(), web.Application()
    for one in (app, twice):
        for path, view in ROUTES.items():
            one.router.add_route("*", path, view)
        setup(one, resolver=scenes.resolver)
    app.add_subapp("/twice", twice)
    app.middlewares.insert(0, outside)
    app.middlewares.append(inside)
    app.cleanup_ctx.append(lifespan)
    return app


application = build()

if __name__ == "__main__":
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None)
