"""The apps that `soak.py` puts under load: Starlette over ASGI, Flask over WSGI.

Each answers with the id of the user whom it sees, or `-`, and fails when it is asked to. Whom an
earlier request left behind in the server, a header says. A server takes `soak_apps:application`,
and the environment says which of the two that is.
"""

from __future__ import annotations

import os
from typing import Any

import usercontext


class RequestedError(RuntimeError):
    """Raised by a request that is to be reported; its text is the request's number."""


def _resolver(request: Any) -> dict[str, str] | None:
    identifier = request.headers.get("x-user")
    return {"id": identifier} if identifier else None


def _answer(headers: Any) -> str:
    """Set the user if asked, fail if asked, else say who it is."""
    if "x-set" in headers:
        usercontext.set_user({"id": headers["x-set"]})
    if "x-fail" in headers:
        raise RequestedError(headers["x-fail"])
    user = usercontext.get_user()
    return "-" if user is None or user.id is None else user.id


def _outside() -> str | None:
    """Return whom the server's own context shows: anybody there would reach the next request."""
    user = usercontext.get_user(resolve=False)
    return None if user is None else str(user.id)


def _watched_asgi(app: Any) -> Any:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        leaked = _outside()

        async def send_marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-leaked", leaked.encode()))
            await send(message)

        await app(scope, receive, send if leaked is None else send_marked)

    return serve


def _watched_wsgi(app: Any) -> Any:
    def serve(environ: Any, start_response: Any) -> Any:
        leaked = _outside()

        def start_marked(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("x-leaked", str(leaked))], *rest)

        return app(environ, start_response if leaked is None else start_marked)

    return serve


def _starlette() -> Any:
    import asyncio

    from starlette.applications import Starlette
    from starlette.requests import Request  # noqa: TC002
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from usercontext.asgi import UserContextMiddleware

    token = {"x-server": os.environ["SERVER_TOKEN"]}

    async def serve(request: Request) -> PlainTextResponse:
        await request.body()
        return PlainTextResponse(_answer(request.headers), headers=token)

    async def flush(_: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await asyncio.to_thread(usercontext.flush, 60.0)))

    app = Starlette(
        routes=[Route("/whoami", serve, methods=["GET", "POST"]), Route("/flush", flush)]
    )
    app.add_middleware(UserContextMiddleware, resolver=_resolver)
    return _watched_asgi(app)


def _flask() -> Any:
    from flask import Flask, Response, request

    from usercontext.frameworks.flask import UserContext

    token = {"x-server": os.environ["SERVER_TOKEN"]}
    app = Flask(__name__)
    app.logger.disabled = True

    @app.route("/whoami", methods=["GET", "POST"])
    def serve() -> Response:
        request.get_data()
        return Response(_answer(request.headers), headers=token)

    @app.route("/flush")
    def flush() -> str:
        return str(usercontext.flush(60.0))

    UserContext(app, resolver=_resolver)
    return _watched_wsgi(app)


def _build() -> Any:
    # No report may be dropped here: the soak counts a missing one as a fault.
    usercontext.init(os.environ["REPORTS"], max_queue=100_000, max_reports=1_000_000)
    return {"asgi": _starlette, "wsgi": _flask}[os.environ["INTERFACE"]]()


application = _build()
