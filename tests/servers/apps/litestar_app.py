"""Every scene on Litestar, with our plugin."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable  # noqa: TC003
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from a2wsgi import WSGIMiddleware
from litestar import Litestar, Request, Response, WebSocket, asgi, route, websocket
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.concurrency import set_asyncio_executor
from litestar.exceptions import WebSocketDisconnect
from litestar.middleware import ASGIMiddleware
from litestar.response import File, Stream
from litestar.types import Receive, Scope, Send  # noqa: TC002 - Litestar reads it

import usercontext.asgi
import usercontext.frameworks.litestar

from . import scenes
from .outside import OutsideASGI

scenes.start()
# Requests wait for each other in threads: as many are needed as there are requests.
set_asyncio_executor(ThreadPoolExecutor(32))

AnyRequest = Request[Any, Any, Any]


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: AnyRequest) -> Response[Any]:
        return Response(await scene(request.headers), status_code=200)

    return serve


def sync_endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread of Litestar's."""

    def serve(request: AnyRequest) -> Response[Any]:
        return Response(scene(request.headers), status_code=200)

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve(request: AnyRequest) -> Stream:
        scenes.set_if_asked(request.headers)
        return Stream(scene(request.headers), media_type="text/plain", status_code=200)

    return serve


async def whoami(request: AnyRequest) -> Response[Any]:
    """Say who it is after the body has been read."""
    await request.body()
    return Response(scenes.whoami(request.headers), status_code=200)


async def background(request: AnyRequest) -> Response[Any]:
    """Answer, then look at the user in background tasks."""
    later = BackgroundTasks(
        [
            BackgroundTask(scenes.background, request.headers),
            BackgroundTask(scenes.background_thread, request.headers),
        ]
    )
    return Response(scenes.whoami(request.headers), status_code=200, background=later)


async def file(request: AnyRequest) -> File:
    """Answer with a file."""
    scenes.set_if_asked(request.headers)
    return File(scenes.FILE, status_code=200)


async def sub_requests(request: AnyRequest) -> Response[Any]:
    """Send requests to this very app."""
    answer = await scenes.sub_requests(scenes.this_app(), request.headers)
    return Response(answer, status_code=200)


async def thousand() -> Response[Any]:
    """Send 1,000 requests to this very app."""
    return Response(await scenes.thousand(scenes.this_app()), status_code=200)


@websocket("/websocket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    """Answer each message with who is seen."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await scenes.websocket_answer(await socket.receive_text()))
    except WebSocketDisconnect:
        pass
    finally:
        scenes.observe(socket.headers, "closed", scenes.who())


def on_handled(request: AnyRequest, error: Exception) -> Response[Any]:
    """Answer for an error that the app handles."""
    return Response(scenes.report_handled(error), status_code=409)


def on_error(request: AnyRequest, error: Exception) -> Response[Any]:
    """Answer for every other error."""
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=error),
    }
    return Response(seen, status_code=500)


class Looking(ASGIMiddleware):
    """Tells whom a middleware of Litestar's sees when the endpoint is done."""

    async def handle(self, scope: Any, receive: Any, send: Any, next_app: Any) -> None:
        """Add the header to the response."""

        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["path"] != "/idle":
                header = (b"x-middleware", str(scenes.who()).encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await next_app(scope, receive, with_header)


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """Look at the user where there is no request."""
    task = await scenes.lifespan_starts()
    yield
    task.cancel()


ROUTES: dict[str, Any] = {
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in (scenes.STREAMS | scenes.SYNC_STREAMS).items()},
    "/whoami": whoami,
    "/background": background,
    "/file": file,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}
SYNC_ROUTES = {path: sync_endpoint(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()}
METHODS: Any = ["GET", "HEAD", "POST"]


def mount() -> Any:
    """Mount apps of both kinds, with our middleware inside and without a resolver or with one.

    By one mount: Litestar takes `/mounted/asgi-own` for something below `/mounted/asgi`.
    """
    wsgi = scenes.mounted_wsgi_apps()
    apps = {
        **scenes.mounted_asgi_apps(),
        **{path: WSGIMiddleware(app) for path, app in wsgi.items()},
    }
    below = {path.removeprefix("/mounted"): app for path, app in apps.items()}
    paths = scenes.Paths(scenes.mounted_asgi, below)

    @asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await paths(scope, receive, send)

    return mounted


def build() -> Litestar:
    """Build the app."""
    routes = [route(path, http_method=METHODS)(view) for path, view in ROUTES.items()]
    sync_routes = [
        route(path, http_method=METHODS, sync_to_thread=True)(view)
        for path, view in SYNC_ROUTES.items()
    ]
    return Litestar(
        [mount(), *routes, *sync_routes, socket],
        lifespan=[lifespan],
        middleware=[Looking()],
        exception_handlers={scenes.HandledError: on_handled, Exception: on_error},
        plugins=[usercontext.frameworks.litestar.UserContext(resolver=scenes.resolver)],
        logging_config=None,
        openapi_config=None,
    )


# Nobody starts the second one: there our plugin stands first among the middlewares.
twice = usercontext.asgi.UserContextMiddleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(build(), {"/twice": twice}))
