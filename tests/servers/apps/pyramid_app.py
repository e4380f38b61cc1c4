"""Every scene on Pyramid, with our module included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.response import Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usercontext.wsgi

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
    return lambda request: Response(json=scene(headers_of(request)))


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    def serve(request: Any) -> Response:
        headers = headers_of(request)
        scenes.set_if_asked(headers)
        return Response(app_iter=scene(headers), content_type="text/plain", charset="utf-8")

    return serve


def whoami(request: Any) -> Response:
    """Say who it is after the body has been read."""
    request.body_file.read()
    return Response(json=scenes.whoami(headers_of(request)))


def background(request: Any) -> Response:
    """Answer, then look at the user when the response is closed."""
    headers = headers_of(request)
    response = Response(json=scenes.whoami(headers))
    response.app_iter = _then(response.body, lambda: scenes.background_thread(headers))
    return response


def _then(body: bytes, work: Callable[[], None]) -> Iterator[bytes]:
    try:
        yield body
    finally:
        work()


def sub_requests(request: Any) -> Response:
    """Send requests to this very app."""
    return Response(json=scenes.sub_requests_wsgi(scenes.this_app(), headers_of(request)))


def thousand(request: Any) -> Response:
    """Send 1,000 requests to this very app."""
    return Response(json=scenes.thousand_wsgi(scenes.this_app()))


def on_handled(error: Exception, request: Any) -> Response:
    """Answer for an error that the app handles."""
    return Response(json=scenes.report_handled(error), status=409)


def on_error(error: Exception, request: Any) -> Response:
    """Answer for every other error."""
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=error),
    }
    return Response(json=seen, status=500)


def on_response(event: Any) -> None:
    """Tell whom Pyramid's own events see when the view is done."""
    if event.request.path != "/idle":
        event.response.headers["x-middleware"] = str(scenes.who())


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
    """Build the app, ours included."""
    config = Configurator(settings={"usercontext.resolver": scenes.resolver})
    config.include("usercontext.frameworks.pyramid")
    config.add_subscriber(on_response, NewResponse)
    for path, view in ROUTES.items():
        config.add_route(path, path)
        config.add_view(view, route_name=path)
    config.add_exception_view(on_handled, context=scenes.HandledError)
    config.add_exception_view(on_error, context=Exception)
    return DispatcherMiddleware(config.make_wsgi_app(), beside)


twice = middleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideWSGI(build(), {"/twice": twice}))
