"""Every scene on Sanic, with our extension, run by its own server."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sanic import Request, Sanic, Websocket, json, text
from sanic.handlers import ErrorHandler
from sanic.response import HTTPResponse, file

import usercontext
import usercontext.frameworks.sanic

from . import scenes
from .outside import watched

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)
_tasks: set[asyncio.Task[Any]] = set()


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: Request) -> HTTPResponse:
        return json(await scene(request.headers))

    return serve


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    def serve(request: Request) -> HTTPResponse:
        return json(scene(request.headers))

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    async def serve(request: Request) -> HTTPResponse:
        return json(await asyncio.to_thread(scene, request.headers))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve(request: Request) -> None:
        scenes.set_if_asked(request.headers)
        response: Any = await request.respond(content_type="text/plain")
        async for chunk in scene(request.headers):
            await response.send(chunk)

    return serve


async def whoami(request: Request) -> HTTPResponse:
    """Say who it is when the body has been read."""
    return json(scenes.whoami(request.headers))


async def background(request: Request) -> HTTPResponse:
    """Answer, then look at the user in tasks of the app."""
    answer = json(scenes.whoami(request.headers))
    request.app.add_task(scenes.background(request.headers))
    request.app.add_task(asyncio.to_thread(scenes.background_thread, request.headers))
    return answer


async def send_file(request: Request) -> HTTPResponse:
    """Answer with a file."""
    scenes.set_if_asked(request.headers)
    return await file(scenes.FILE)


async def websocket(request: Request, socket: Websocket) -> None:
    """Answer each message with who is seen."""
    try:
        while (message := await socket.recv()) is not None:
            await socket.send(await scenes.websocket_answer(message))
    finally:
        scenes.observe(request.headers, "closed", scenes.who())


async def on_handled(request: Request, error: Exception) -> HTTPResponse:
    """Answer for an error that the app handles."""
    return json(scenes.report_handled(error), status=409)


class Answers(ErrorHandler):
    """Makes the page for every other error."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        """Tell all that is seen of the user."""
        if not isinstance(exception, scenes.BoomError):
            return text(str(exception), status=getattr(exception, "status_code", 500))
        seen = {
            "current": scenes.who(),
            "request": scenes.who(request=request),
            "error": scenes.who(error=exception),
        }
        return json(seen, status=500)


async def on_response(request: Request, response: HTTPResponse) -> None:
    """Tell whom Sanic's own hooks see when the endpoint is done."""
    response.headers.update(vars(request.ctx).get("outside", {}))
    if request.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())


async def starts(app: Sanic[Any, Any]) -> None:
    """Give the scenes threads enough, and look at the user where there is no request."""
    asyncio.get_running_loop().set_default_executor(_threads)
    app.ctx.task = await scenes.lifespan_starts()


async def ends(app: Sanic[Any, Any]) -> None:
    """Stop looking."""
    app.ctx.task.cancel()


async def flush(headers: dict[str, str]) -> None:
    """Flush in a task of its own: that of the connection is cancelled when the client leaves."""
    scenes.observe(headers, "flushed", await asyncio.to_thread(usercontext.flush, 5.0))


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in scenes.STREAMS.items()},
    "/whoami": whoami,
    "/background": background,
    "/file": send_file,
}


def build(name: str) -> Sanic[Any, Any]:
    """Build the app."""
    app: Sanic[Any, Any] = Sanic(name, error_handler=Answers(), configure_logging=False)
    app.config.ACCESS_LOG = False
    for path, view in ROUTES.items():
        app.add_route(view, path, methods=["GET", "POST", "HEAD"], name=path[1:].replace("-", "_"))
    app.add_websocket_route(websocket, "/websocket")
    app.exception(scenes.HandledError)(on_handled)
    app.on_response(on_response)
    app.before_server_start(starts)
    app.before_server_stop(ends)
    usercontext.frameworks.sanic.UserContext(app, resolver=scenes.resolver)
    return app


def watch(app: Sanic[Any, Any]) -> Sanic[Any, Any]:
    """Look at the user around ours, where Sanic's own code calls it."""

    class Outside(type(app)):  # type: ignore[misc]
        async def handle_request(self, request: Request) -> None:
            headers = {key: value for key, value in request.headers.items() if key != "x-flush"}
            try:
                async with watched(headers) as request.ctx.outside:
                    await super().handle_request(request)
            finally:
                if "x-flush" in request.headers:
                    _tasks.add(asyncio.create_task(flush(headers)))

    app.__class__ = Outside
    return app


application = watch(build("Matrix"))

if __name__ == "__main__":
    application.run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False)
