"""Every scene on Tornado, with our extension."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

import usercontext.frameworks.tornado

from . import scenes
from .outside import watched

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()
logging.disable()

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)
_tasks: set[asyncio.Task[Any]] = set()


def resolver(handler: RequestHandler) -> dict[str, str] | None:
    """Find the user of a handler's request."""
    return scenes.resolver(handler.request)


class Handler(RequestHandler):
    """What the routes have in common."""

    outside: dict[str, str]

    def set_default_headers(self) -> None:
        """Set what is to be on every response, also on one that an error has cleared."""
        for name, value in vars(self).get("outside", {}).items():
            self.set_header(name, value)

    async def serve(self) -> None:
        """Answer, whatever the method."""

    async def get(self) -> None:
        await self.serve()

    post = head = get

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer for errors: one that the app handles, and every other."""
        error = details["exc_info"][1] if "exc_info" in details else None
        if isinstance(error, scenes.HandledError):
            self.set_status(409)
            self.finish(scenes.report_handled(error))
            return
        seen = {
            "current": scenes.who(),
            "request": scenes.who(request=self.request),
            "error": scenes.who(error=error) if error else None,
        }
        self.finish(seen)

    def finish(self, chunk: Any = None) -> Any:
        """Tell whom the framework's own hooks see when the endpoint is done."""
        if self.request.path != "/idle" and not self._headers_written:
            self.set_header("x-middleware", str(scenes.who()))
        return super().finish(chunk)


def _handler(serve: Callable[[Handler], Any]) -> type[Handler]:
    return type(serve.__name__, (Handler,), {"serve": serve})


def endpoint(scene: Callable[..., Any]) -> type[Handler]:
    """Serve an asynchronous scene."""

    async def serve(self: Handler) -> None:
        self.write(await scene(self.request.headers))

    return _handler(serve)


def plain(scene: Callable[..., Any]) -> type[Handler]:
    """Serve a scene that waits for nothing."""

    async def serve(self: Handler) -> None:
        self.write(scene(self.request.headers))

    return _handler(serve)


def thread(scene: Callable[..., Any]) -> type[Handler]:
    """Serve a scene in a thread."""

    async def serve(self: Handler) -> None:
        self.write(await asyncio.to_thread(scene, self.request.headers))

    return _handler(serve)


def stream(scene: Callable[..., Any]) -> type[Handler]:
    """Serve a scene that yields."""

    async def serve(self: Handler) -> None:
        scenes.set_if_asked(self.request.headers)
        self.set_header("content-type", "text/plain")
        async for chunk in scene(self.request.headers):
            self.write(chunk)
            await self.flush()

    return _handler(serve)


def start_task(work: Any) -> None:
    """Start a task that outlives its request."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def background(self: Handler) -> None:
    """Answer, then look at the user in background tasks."""
    self.write(scenes.whoami(self.request.headers))
    start_task(scenes.background(self.request.headers))
    start_task(asyncio.to_thread(scenes.background_thread, self.request.headers))


class Socket(WebSocketHandler):
    """The websocket."""

    async def on_message(self, message: str | bytes) -> None:
        """Answer each message with who is seen."""
        await self.write_message(await scenes.websocket_answer(str(message)))

    def on_close(self) -> None:
        """Look at the user when the client has gone."""
        scenes.observe(self.request.headers, "closed", scenes.who())


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(scene) for path, scene in scenes.ASYNC.items()},
    **{path: stream(scene) for path, scene in scenes.STREAMS.items()},
    "/whoami": plain(scenes.whoami),
    "/background": _handler(background),
    "/websocket": Socket,
}


@functools.cache
def around(handler_class: Any) -> Any:
    """Return a class that looks at the user around ours, where Tornado's own code calls it."""

    class Watched(handler_class):  # type: ignore[misc]
        async def _execute(self, *args: Any, **kwargs: Any) -> None:
            async with watched(self.request.headers) as headers:
                self.outside = headers
                if not isinstance(self, WebSocketHandler):
                    Handler.set_default_headers(self)
                await super()._execute(*args, **kwargs)

    return Watched


def build() -> Application:
    """Build the application."""
    app = Application(list(ROUTES.items()))
    usercontext.frameworks.tornado.UserContext(app, resolver=resolver)
    ours = app.get_handler_delegate

    def delegate(*args: Any, **kwargs: Any) -> Any:
        found: Any = ours(*args, **kwargs)
        found.handler_class = around(found.handler_class)
        return found

    app.get_handler_delegate = delegate  # type: ignore[method-assign]
    return app


async def main() -> None:
    """Serve the application until the process is ended."""
    asyncio.get_running_loop().set_default_executor(_threads)
    _tasks.add(await scenes.lifespan_starts())
    build().listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
