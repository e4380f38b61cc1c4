"""Every scene on FastAPI, our middleware added with `add_middleware`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - FastAPI reads it
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

import usercontext

from . import scenes, starlette_routes

scenes.start()


def plain(request: Request) -> str | None:
    """Set the user in a dependency that runs in a thread."""
    scenes.set_if_asked(request.headers)
    return scenes.who()


async def asynchronous() -> str | None:
    """See the user in a coroutine."""
    return scenes.who()


def plain_yield(request: Request) -> Iterator[str | None]:
    """See the user in a thread, and again after the endpoint."""
    yield scenes.who()
    scenes.observe(request.headers, "plain yield", scenes.who())


async def asynchronous_yield(request: Request) -> AsyncIterator[str | None]:
    """See the user in a coroutine, and again after the endpoint."""
    yield scenes.who()
    scenes.observe(request.headers, "asynchronous yield", scenes.who())


class Constructed:
    """See the user in a class that FastAPI calls."""

    def __init__(self) -> None:
        self.user = scenes.who()


class Callable:
    """See the user in an object that FastAPI calls."""

    async def __call__(self) -> str | None:
        """See the user."""
        return scenes.who()


async def dependencies(  # noqa: PLR0917
    request: Request,
    of_plain: Annotated[Any, Depends(plain)],
    of_asynchronous: Annotated[Any, Depends(asynchronous)],
    of_plain_yield: Annotated[Any, Depends(plain_yield)],
    of_asynchronous_yield: Annotated[Any, Depends(asynchronous_yield)],
    of_class: Annotated[Any, Depends(Constructed)],
    of_callable: Annotated[Any, Depends(Callable())],
) -> dict[str, Any]:
    """Tell whom each kind of dependency saw, then make it another user."""
    user = scenes.who()
    usercontext.set_user({"id": request.headers["x-late"]})
    return {
        "plain": of_plain,
        "asynchronous": of_asynchronous,
        "plain yield": of_plain_yield,
        "asynchronous yield": of_asynchronous_yield,
        "class": of_class.user,
        "callable": of_callable,
        "endpoint": user,
    }


def build() -> FastAPI:
    """Build the app."""
    app = FastAPI(lifespan=starlette_routes.lifespan, exception_handlers=starlette_routes.ERRORS)
    for path, view in starlette_routes.ROUTES.items():
        app.add_api_route(path, view, methods=["GET", "HEAD", "POST"], response_model=None)
    app.add_api_route("/dependencies", dependencies)
    app.router.routes.extend([*starlette_routes.mounts(), starlette_routes.WEBSOCKET])
    return app


application = scenes.publish(starlette_routes.serve(build))
