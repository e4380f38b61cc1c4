"""Every scene on Flask, with our extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request, stream_with_context
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import usercontext.frameworks.flask
import usercontext.wsgi

from . import scenes
from .outside import OutsideWSGI

if TYPE_CHECKING:
    from collections.abc import Callable

scenes.start()


def endpoint(scene: Callable[..., Any]) -> Callable[[], Response]:
    """Serve a scene."""
    return lambda: jsonify(scene(request.headers))


def stream(scene: Callable[..., Any]) -> Callable[[], Response]:
    """Serve a scene that yields, in Flask's own context."""

    def serve() -> Response:
        scenes.set_if_asked(request.headers)
        return Response(stream_with_context(scene(request.headers)), mimetype="text/plain")

    return serve


def plain_stream(scene: Callable[..., Any]) -> Callable[[], Response]:
    """Serve a scene that yields, without Flask's context."""

    def serve() -> Response:
        scenes.set_if_asked(request.headers)
        return Response(scene(dict(_lower())), mimetype="text/plain")

    return serve


def _lower() -> Any:
    return ((key.lower(), value) for key, value in request.headers.items())


def whoami() -> Response:
    """Say who it is after the body has been read."""
    request.get_data()
    return jsonify(scenes.whoami(request.headers))


def on_close() -> Response:
    """Answer, then look at the user when the response is closed."""
    headers = dict(_lower())
    response = jsonify(scenes.whoami(headers))
    response.call_on_close(lambda: scenes.background_thread(headers))
    return response


def sub_requests() -> Response:
    """Send requests to this very app."""
    return jsonify(scenes.sub_requests_wsgi(scenes.this_app(), request.headers))


def thousand() -> Response:
    """Send 1,000 requests to this very app."""
    return jsonify(scenes.thousand_wsgi(scenes.this_app()))


def on_handled(error: Exception) -> tuple[Response, int]:
    """Answer for an error that the app handles."""
    return jsonify(scenes.report_handled(error)), 409


def on_error(error: Any) -> tuple[Response, int]:
    """Answer for every other error."""
    original = error.original_exception
    seen = {
        "current": scenes.who(),
        "request": scenes.who(request=request),
        "error": scenes.who(error=original),
    }
    return jsonify(seen), 500


def after_request(response: Response) -> Response:
    """Tell whom Flask's own hooks see when the endpoint is done."""
    if request.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


def teardown(error: BaseException | None) -> None:
    """Tell whom Flask's teardown sees."""
    if request.path != "/idle":
        scenes.observe(request.headers, "teardown", scenes.who())


ROUTES: dict[str, Callable[[], Any]] = {
    **{path: endpoint(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()},
    **{path: plain_stream(scene) for path, scene in scenes.SYNC_STREAMS.items()},
    "/whoami": whoami,
    "/background": on_close,
    "/stream-sync": stream(scenes.chunks),
    "/stream-plain": plain_stream(scenes.chunks),
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}


below = {**scenes.mounted_wsgi_apps(), **scenes.RAW}


def build(*, times: int = 1) -> Flask:
    """Build the app with our extension, and our middleware around it once more if asked."""
    app = Flask(__name__)
    for path, view in ROUTES.items():
        app.add_url_rule(path, path, view, methods=["GET", "POST"])
    app.register_error_handler(scenes.HandledError, on_handled)
    app.register_error_handler(500, on_error)
    app.after_request(after_request)
    app.teardown_request(teardown)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, below)  # type: ignore[method-assign]
    usercontext.frameworks.flask.UserContext(app, resolver=scenes.resolver)
    for _ in range(times - 1):
        app.wsgi_app = usercontext.wsgi.UserContextMiddleware(  # type: ignore[method-assign]
            app.wsgi_app, resolver=scenes.resolver
        )
    return app


application = scenes.publish(OutsideWSGI(build(), {"/twice": build(times=2)}))
