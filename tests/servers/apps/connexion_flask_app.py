"""Every scene on Connexion's `FlaskApp`, which calls Flask in threads, with our extension."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import connexion
from a2wsgi import WSGIMiddleware
from connexion import FlaskApp
from connexion.lifecycle import ConnexionResponse
from connexion.middleware import MiddlewarePosition
from flask import Response, jsonify, request, send_file

import usercontext.asgi
from usercontext.frameworks.connexion import UserContext

from . import scenes
from .outside import OutsideASGI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

scenes.start()


def headers_of() -> dict[str, str]:
    """Return headers that outlive their request, in lower case."""
    return {key.lower(): value for key, value in request.headers.items()}


def endpoint(scene: Callable[..., Any]) -> Callable[[], Response]:
    """Serve a scene."""
    return lambda: jsonify(scene(headers_of()))


def stream(scene: Callable[..., Any]) -> Callable[[], Response]:
    """Serve a scene that yields."""

    def serve() -> Response:
        headers = headers_of()
        scenes.set_if_asked(headers)
        return Response(scene(headers), mimetype="text/plain")

    return serve


def whoami() -> Response:
    """Say who it is after the body has been read."""
    request.get_data()
    return jsonify(scenes.whoami(headers_of()))


def on_close() -> Response:
    """Answer, then look at the user when the response is closed."""
    headers = headers_of()
    response = jsonify(scenes.whoami(headers))
    response.call_on_close(lambda: scenes.background_thread(headers))
    return response


def file() -> Response:
    """Answer with a file."""
    scenes.set_if_asked(headers_of())
    return send_file(scenes.FILE)


def lifespan_seen() -> Response:
    """Say who was seen in the lifespan."""
    return jsonify(asyncio.run(scenes.lifespan(headers_of())))


def sub_requests() -> Response:
    """Send requests to this very app, from a loop of this thread's own."""
    return jsonify(asyncio.run(scenes.sub_requests(scenes.this_app(), headers_of())))


def thousand() -> Response:
    """Send 1,000 requests to this very app."""
    return jsonify(asyncio.run(scenes.thousand(scenes.this_app())))


def on_handled(_request: Any, error: Exception) -> ConnexionResponse:
    """Answer for an error that the app handles."""
    answer = connexion.jsonifier.Jsonifier().dumps(scenes.report_handled(error))
    return ConnexionResponse(status_code=409, mimetype="application/json", body=answer)


def after_request(response: Response) -> Response:
    """Tell whom Flask's own hooks see when the endpoint is done."""
    if request.path != "/idle":
        response.headers["x-middleware"] = str(scenes.who())
    return response


def teardown(_error: BaseException | None) -> None:
    """Tell whom Flask's teardown sees."""
    if request.path != "/idle":
        scenes.observe(headers_of(), "teardown", scenes.who())


@contextlib.asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[None]:
    """Look at the user where there is no request."""
    task = await scenes.lifespan_starts()
    yield
    task.cancel()


ROUTES: dict[str, Any] = {
    **{path: endpoint(scene) for path, scene in (scenes.SYNC | scenes.THREADS).items()},
    **{path: stream(scene) for path, scene in scenes.SYNC_STREAMS.items()},
    "/whoami": whoami,
    "/background": on_close,
    "/file": file,
    "/lifespan": lifespan_seen,
    "/sub-requests": sub_requests,
    "/thousand": thousand,
}


def _operations(path: str) -> dict[str, Any]:
    def operation(method: str) -> dict[str, Any]:
        return {
            "operationId": f"{method} {path}",
            "responses": {"200": {"description": "who is seen"}},
        }

    body = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    post = operation("post") | {"requestBody": body}
    return {"get": operation("get"), "head": operation("head"), "post": post}


SPECIFICATION = {
    "openapi": "3.0.0",
    "info": {"title": "Matrix", "version": "1"},
    "paths": {path: _operations(path) for path in ROUTES},
}


def find(operation: str) -> Any:
    """Find what serves an operation."""
    return ROUTES[operation.partition(" ")[2]]


def below() -> dict[str, Any]:
    """Return the apps beside Connexion, which has no mounting of its own."""
    wsgi = {path: WSGIMiddleware(app) for path, app in scenes.mounted_wsgi_apps().items()}
    return scenes.mounted_asgi_apps() | wsgi


def build() -> FlaskApp:
    """Build the app."""
    app = FlaskApp(__name__, lifespan=lifespan)
    # It has ten threads, and sixteen requests wait for each other.
    app._middleware_app.asgi_app = WSGIMiddleware(app.app.wsgi_app, workers=20)
    UserContext(app, resolver=scenes.resolver)
    app.add_error_handler(scenes.HandledError, on_handled)
    app.add_middleware(scenes.Paths, position=MiddlewarePosition.BEFORE_SWAGGER, apps=below())
    app.app.after_request(after_request)
    app.app.teardown_request(teardown)
    app.add_api(SPECIFICATION, resolver=connexion.Resolver(find))
    return app


twice = usercontext.asgi.UserContextMiddleware(build(), resolver=scenes.resolver)
application = scenes.publish(OutsideASGI(build(), {"/twice": twice}))
