"""Every scene on BlackSheep, with our extension."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from a2wsgi import WSGIMiddleware
from blacksheep import Application, Request, Response, StreamedContent, WebSocket, json
from blacksheep.server.routing import Router
from blacksheep.server.websocket import WebSocketDisconnectError

import usercontext.asgi
from usercontext.frameworks.blacksheep import UserContext

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

scenes.start()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)
_tasks: set[asyncio.Task[Any]] = set()


def headers_of(request: Request) -> dict[str, str]:
    """Return headers in lower case, as text."""
    return {name.decode().lower(): value.decode() for name, value in request.headers}


def resolver(request: Request) -> dict[str, str] | None:
    """Find the user of a request of BlackSheep's."""
    return scenes.resolver(SimpleNamespace(headers=headers_of(request)))


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: Request) -> Response:
        return json(await scene(headers_of(request)))

    return serve


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    async def serve(request: Request) -> Response:
        return json(scene(headers_of(request)))

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    async def serve(request: Request) -> Response:
        return json(await asyncio.to_thread(scene, headers_of(request)))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve(request: Request) -> Response:
        headers = headers_of(request)
        scenes.set_if_asked(headers)

        async def chunks() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(scene(headers)) as body:
                async for chunk in body:
                    yield chunk

        return Response(200, content=StreamedContent(b"text/plain", chunks))

    return serve


async def whoami(request: Request) -> Response:
    """Say who it is after the body has been read."""
    await request.read()
    return json(scenes.whoami(headers_of(request)))


def start_task(work: Any) -> None:
    """Start a task that outlives its request."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def background(request: Request) -> Response:
    """Answer, then look at the user in background tasks."""
    headers = headers_of(request)
    answer = json(scenes.whoami(headers))
    start_task(scenes.background(headers))
    start_task(asyncio.to_thread(scenes.background_thread, headers))
    return answer


async def sub_requests(request: Request) -> Response:
    """Send requests to this very app."""
    return json(await scenes.sub_requests(scenes.this_app(), headers_of(request)))


async def thousand(request: Request) -> Response:
    """Send 1,000 requests to this very app."""
    return json(await scenes.thousand(scenes.this_app()))


async def websocket(socket: WebSocket) -> None:
    """Answer each message with who is seen."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await scenes.websocket_answer(await socket.receive_text()))
    except WebSocketDisconnectError:
        return
    finally:
        scenes.observe(headers_of(socket), "closed", scenes.who())


async def on_handled(app: Any, request: Request, error: Exception) -> Response:
    """Answer for an error that the app handles."""
    return json(scenes.report_handled(error), status=409)


async def on_error(app: Any, request: Request, error: Any) -> Response:
    """Answer for every other error, of which this is what BlackSheep makes."""
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=error.source_error),
    }
    return json(seen, status=500)


async def look(request: Request, handler: Any) -> Response:
    """Tell whom a middleware inside ours sees when the endpoint is done."""
    asyncio.get_running_loop().set_default_executor(_threads)
    response: Response = await handler(request)
    if response is not None and request.path != "/idle":
        response.add_header(b"x-middleware", str(scenes.who()).encode())
    return response


async def starts(app: Application) -> None:
    """Look at the user where there is no request."""
    _tasks.add(await scenes.lifespan_starts())


async def ends(app: Application) -> None:
    """Stop looking."""
    for task in _tasks:
        task.cancel()


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in scenes.STREAMS.items()},
    "/whoami": whoami,
    "/background": background,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}


def build() -> Application:
    """Build the app."""
    app = Application(router=Router())
    for path, view in ROUTES.items():
        for method in ("GET", "POST", "HEAD"):
            app.router.add(method, path, view)
    app.router.add_ws("/websocket", websocket)
    app.exceptions_handlers[scenes.HandledError] = on_handled
    app.exceptions_handlers[500] = on_error
    app.middlewares.append(look)
    UserContext(app, resolver=resolver)
    wsgi = {path: WSGIMiddleware(one) for path, one in scenes.mounted_wsgi_apps().items()}
    # The longest first: BlackSheep takes the first that a path begins with.
    for path, mounted in sorted((scenes.mounted_asgi_apps() | wsgi).items(), reverse=True):
        app.mount(path, mounted)
    return app


once = build()
once.on_start += starts
once.on_stop += ends
twice = usercontext.asgi.UserContextMiddleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(once, {"/twice": twice}))
