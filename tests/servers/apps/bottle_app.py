"""Every scene on Bottle, with our plugin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bottle import Bottle, HTTPResponse, request, response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usercontext.wsgi
from usercontext.frameworks.bottle import UserContext

from . import scenes
from .outside import OutsideWSGI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

scenes.start()


def headers_of(request: Any) -> dict[str, str]:
    """Return headers that outlive their request, in lower case."""
    return {key.lower(): value for key, value in request.headers.items()}


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve a scene."""
    return lambda: scene(headers_of(request))


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    def serve() -> Any:
        headers = headers_of(request)
        scenes.set_if_asked(headers)
        response.content_type = "text/plain"
        return scene(headers)

    return serve


def whoami() -> Any:
    """Say who it is after the body has been read."""
    request.body.read()
    return scenes.whoami(headers_of(request))


def background() -> Iterator[bytes]:
    """Answer, then look at the user when the response is closed."""
    headers = headers_of(request)
    try:
        yield str(scenes.whoami(headers)).encode()
    finally:
        scenes.background_thread(headers)


def sub_requests() -> Any:
    """Send requests to this very app, of which each takes Bottle's one current request."""
    environ, headers = request.environ, headers_of(request)
    try:
        return scenes.sub_requests_wsgi(scenes.this_app(), headers)
    finally:
        request.bind(environ)
        response.bind()


def thousand() -> Any:
    """Send 1,000 requests to this very app."""
    return scenes.thousand_wsgi(scenes.this_app())


def forgiving(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Answer for an error that the app handles: a plugin, as Bottle has no handlers by class."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except scenes.HandledError as error:
            return HTTPResponse(scenes.report_handled(error), 409)

    return call


def on_error(error: Any) -> Any:
    """Answer for every other error."""
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=error.exception),
    }
    return json.dumps(seen)


def after_request() -> None:
    """Tell whom Bottle's own hooks see when the endpoint is done."""
    if request.path != "/idle":
        response.set_header("x-middleware", str(scenes.who()))


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
    """Build the app with our plugin."""
    app = Bottle()
    for path, callback in ROUTES.items():
        app.route(path, ["GET", "HEAD", "POST"], callback)
    app.install(UserContext(resolver=scenes.resolver))
    app.install(forgiving)
    app.error(500)(on_error)
    app.add_hook("after_request", after_request)
    return DispatcherMiddleware(app, beside)


twice = middleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideWSGI(build(), {"/twice": twice}))
