"""Every scene on Falcon over ASGI, wrapped by our module."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import falcon.asgi
from a2wsgi import WSGIMiddleware
from falcon import WebSocketDisconnected

import usercontext.asgi
from usercontext import bind
from usercontext.frameworks.falcon import wrap

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)


def resolver(request: Any) -> dict[str, str] | None:
    """Find the user of a request of Falcon's, which has its headers in lower case."""
    return scenes.resolver(SimpleNamespace(headers=request.headers))


class Resource:
    """A route: it does the same for every method."""

    def __init__(self, serve: Callable[[Any, Any], Any]) -> None:
        self.on_get = self.on_post = self.on_head = serve


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(req: Any, resp: Any) -> None:
        resp.media = await scene(req.headers)

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread, with the context that Falcon's own would be without."""

    async def serve(req: Any, resp: Any) -> None:
        resp.media = await asyncio.to_thread(scene, req.headers)

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    async def serve(req: Any, resp: Any) -> None:
        scenes.set_if_asked(req.headers)
        resp.content_type = "text/plain"
        resp.stream = scene(req.headers)

    return serve


async def whoami(req: Any, resp: Any) -> None:
    """Say who it is after the body has been read."""
    await req.stream.read()
    resp.media = scenes.whoami(req.headers)


async def background(req: Any, resp: Any) -> None:
    """Answer, then look at the user in background work."""
    headers = req.headers
    resp.media = scenes.whoami(headers)

    async def task() -> None:
        await scenes.background(headers)

    resp.schedule(task)
    resp.schedule_sync(bind(lambda: scenes.background_thread(headers)))


async def sub_requests(req: Any, resp: Any) -> None:
    """Send requests to this very app."""
    resp.media = await scenes.sub_requests(scenes.this_app(), req.headers)


async def thousand(req: Any, resp: Any) -> None:
    """Send 1,000 requests to this very app."""
    resp.media = await scenes.thousand(scenes.this_app())


class Talk:
    """The websocket."""

    async def on_websocket(self, req: Any, ws: Any) -> None:
        """Answer each message with who is seen."""
        await ws.accept()
        try:
            while True:
                await ws.send_text(await scenes.websocket_answer(await ws.receive_text()))
        except WebSocketDisconnected:
            return
        finally:
            scenes.observe(req.headers, "closed", scenes.who())


async def on_handled(req: Any, resp: Any, error: Exception, params: Any) -> None:
    """Answer for an error that the app handles."""
    resp.media, resp.status = scenes.report_handled(error), 409


async def on_error(req: Any, resp: Any, error: Exception, params: Any) -> None:
    """Answer for every other error."""
    resp.media = {
        "current": scenes.who(),
        "request": scenes.who(request=req),
        "error": scenes.who(error=error),
    }
    resp.status = 500


class Looking:
    """A middleware of the app's, inside ours."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()

    async def process_startup(self, scope: Any, event: Any) -> None:
        """Look at the user where there is no request."""
        self.tasks.add(await scenes.lifespan_starts())

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        """Stop looking."""
        for task in self.tasks:
            task.cancel()

    async def process_request(self, req: Any, resp: Any) -> None:
        """Give the scenes threads enough, also on servers that send no lifespan."""
        asyncio.get_running_loop().set_default_executor(_threads)

    async def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
        """Tell whom it sees when the endpoint is done."""
        if req.path != "/idle":
            resp.set_header("x-middleware", str(scenes.who()))


ROUTES: dict[str, Any] = {
    **{path: thread(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in scenes.STREAMS.items()},
    "/whoami": whoami,
    "/background": background,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}

middleware = usercontext.asgi.UserContextMiddleware


def beside() -> dict[str, Any]:
    """Return the apps beside Falcon, which has no mounting of its own."""
    wsgi = {path: WSGIMiddleware(app) for path, app in scenes.mounted_wsgi_apps().items()}
    apps = {**scenes.mounted_asgi_apps(), **wsgi}
    return {path: middleware(app, resolver=scenes.resolver) for path, app in apps.items()}


def build() -> Any:
    """Build the app, and wrap it."""
    app = falcon.asgi.App(middleware=[Looking()])
    for path, serve in ROUTES.items():
        app.add_route(path, Resource(serve))
    app.add_route("/websocket", Talk())
    app.add_error_handler(scenes.HandledError, on_handled)
    app.add_error_handler(Exception, on_error)
    return scenes.Paths(wrap(app, resolver=resolver), beside())


twice = middleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(build(), {"/twice": twice}))
