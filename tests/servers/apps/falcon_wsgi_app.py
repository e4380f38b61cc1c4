"""Every scene on Falcon over WSGI, wrapped by our module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import falcon
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usercontext.wsgi
from usercontext.frameworks.falcon import wrap

from . import scenes
from .outside import OutsideWSGI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

scenes.start()


def headers_of(request: Any) -> dict[str, str]:
    """Return headers as the scenes read them: Falcon has them in upper case."""
    return {key.lower(): value for key, value in request.headers.items()}


def resolver(request: Any) -> dict[str, str] | None:
    """Find the user of a request of Falcon's."""
    return scenes.resolver(SimpleNamespace(headers=headers_of(request)))


class Resource:
    """A route: it does the same for every method."""

    def __init__(self, serve: Callable[[Any, Any], None]) -> None:
        self.on_get = self.on_post = self.on_head = serve


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene."""

    def serve(req: Any, resp: Any) -> None:
        resp.media = scene(headers_of(req))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    def serve(req: Any, resp: Any) -> None:
        scenes.set_if_asked(headers_of(req))
        resp.content_type = "text/plain"
        resp.stream = scene(headers_of(req))

    return serve


def whoami(req: Any, resp: Any) -> None:
    """Say who it is after the body has been read."""
    req.bounded_stream.read()
    resp.media = scenes.whoami(headers_of(req))


def background(req: Any, resp: Any) -> None:
    """Answer, then look at the user when the response is closed."""
    headers = headers_of(req)
    resp.media = scenes.whoami(headers)
    resp.stream = _then(resp.render_body(), lambda: scenes.background_thread(headers))
    resp.media = None


def _then(body: bytes, work: Callable[[], None]) -> Iterator[bytes]:
    try:
        yield body
    finally:
        work()


def sub_requests(req: Any, resp: Any) -> None:
    """Send requests to this very app."""
    resp.media = scenes.sub_requests_wsgi(scenes.this_app(), headers_of(req))


def thousand(req: Any, resp: Any) -> None:
    """Send 1,000 requests to this very app."""
    resp.media = scenes.thousand_wsgi(scenes.this_app())


def on_handled(req: Any, resp: Any, error: Exception, params: Any) -> None:
    """Answer for an error that the app handles."""
    resp.media, resp.status = scenes.report_handled(error), 409


def on_error(req: Any, resp: Any, error: Exception, params: Any) -> None:
    """Answer for every other error."""
    resp.media = {
        "current": scenes.who(),
        "request": scenes.who(request=req.env),
        "error": scenes.who(error=error),
    }
    resp.status = 500


class Looking:
    """A middleware of the app's, inside ours."""

    def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
        """Tell whom it sees when the endpoint is done."""
        if req.path != "/idle":
            resp.set_header("x-middleware", str(scenes.who()))


ROUTES: dict[str, Any] = {
    **{path: endpoint(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()},
    **{path: stream(scene) for path, scene in scenes.SYNC_STREAMS.items()},
    "/whoami": whoami,
    "/background": background,
    "/stream-plain": stream(scenes.chunks),
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}

middleware = usercontext.wsgi.UserContextMiddleware
beside = {
    path: middleware(app, resolver=scenes.resolver)
    for path, app in {**scenes.mounted_wsgi_apps(), **scenes.RAW}.items()
}


def build() -> Any:
    """Build the app, and wrap it."""
    app = falcon.App(middleware=[Looking()])
    for path, serve in ROUTES.items():
        app.add_route(path, Resource(serve))
    app.add_error_handler(scenes.HandledError, on_handled)
    app.add_error_handler(Exception, on_error)
    return DispatcherMiddleware(wrap(app, resolver=resolver), beside)


twice = middleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideWSGI(build(), {"/twice": twice}))
