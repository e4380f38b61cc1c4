"""Every scene on Quart, with our extension."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from a2wsgi import WSGIMiddleware
from quart import Quart, Response, current_app, jsonify, request, send_file, websocket

import usercontext.asgi
import usercontext.frameworks.quart

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()

_tasks: set[asyncio.Task[Any]] = set()
# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)


def headers_of(request: Any) -> dict[str, str]:
    """Return headers that outlive their request, in lower case."""
    return {key.lower(): value for key, value in request.headers.items()}


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve() -> Response:
        return jsonify(await scene(headers_of(request)))

    return serve


def sync_endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread of Quart's."""
    return lambda: jsonify(scene(headers_of(request)))


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields, which Quart does outside of its own context."""

    async def serve() -> Response:
        headers = headers_of(request)
        scenes.set_if_asked(headers)
        return Response(scene(headers), mimetype="text/plain")

    return serve


async def whoami() -> Response:
    """Say who it is after the body has been read."""
    await request.get_data()
    return jsonify(scenes.whoami(headers_of(request)))


async def background() -> Response:
    """Answer, then look at the user in background tasks."""
    headers = headers_of(request)
    response = jsonify(scenes.whoami(headers))
    current_app.add_background_task(scenes.background, headers)
    current_app.add_background_task(scenes.background_thread, headers)
    return response


async def file() -> Response:
    """Answer with a file."""
    scenes.set_if_asked(headers_of(request))
    return await send_file(scenes.FILE)


async def sub_requests() -> Response:
    """Send requests to this very app."""
    return jsonify(await scenes.sub_requests(scenes.this_app(), headers_of(request)))


async def thousand() -> Response:
    """Send 1,000 requests to this very app."""
    return jsonify(await scenes.thousand(scenes.this_app()))


async def socket() -> None:
    """Answer each message with who is seen."""
    headers = headers_of(websocket)
    try:
        while True:
            await websocket.send(await scenes.websocket_answer(await websocket.receive()))
    finally:
        scenes.observe(headers, "closed", scenes.who())


async def on_handled(error: Exception) -> tuple[Response, int]:
    """Answer for an error that the app handles."""
    return jsonify(scenes.report_handled(error)), 409


async def on_error(error: Any) -> tuple[Response, int]:
    """Answer for every other error."""
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=error.original_exception),
    }
    return jsonify(seen), 500


async def before_request() -> None:
    """Give sync views threads enough, also on servers that send no lifespan."""
    asyncio.get_running_loop().set_default_executor(_threads)


async def after_request(response: Response) -> Response:
    """Tell whom Quart's own hooks see when the endpoint is done."""
    if request.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


async def before_serving() -> None:
    """Look at the user where there is no request."""
    _tasks.add(await scenes.lifespan_starts())


async def after_serving() -> None:
    """Stop looking."""
    for task in _tasks:
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


def below() -> dict[str, Any]:
    """Return the apps beside Quart, which has no mounting of its own."""
    wsgi = scenes.mounted_wsgi_apps()
    return {
        **scenes.mounted_asgi_apps(),
        **{path: WSGIMiddleware(app) for path, app in wsgi.items()},
    }


def build(*, times: int = 1) -> Quart:
    """Build the app with our extension, and our middleware around it once more if asked."""
    app = Quart(__name__)
    for path, view in ROUTES.items():
        app.add_url_rule(path, path, view, methods=["GET", "POST"])
    app.add_websocket("/websocket", "websocket", socket)
    app.register_error_handler(scenes.HandledError, on_handled)
    app.register_error_handler(500, on_error)
    app.before_request(before_request)
    app.after_request(after_request)
    app.before_serving(before_serving)
    app.after_serving(after_serving)
    app.asgi_app = scenes.Paths(app.asgi_app, below())  # type: ignore[arg-type,assignment,method-assign]
    usercontext.frameworks.quart.UserContext(app, resolver=scenes.resolver)
    for _ in range(times - 1):
        app.asgi_app = usercontext.asgi.UserContextMiddleware(  # type: ignore[assignment,method-assign]
            app.asgi_app,  # type: ignore[arg-type]
            resolver=scenes.resolver,
        )
    return app


application = scenes.publish(OutsideASGI(build(), {"/twice": build(times=2)}))
