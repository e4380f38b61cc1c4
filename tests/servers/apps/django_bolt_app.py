"""Every scene on django-bolt, with our middleware."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django_bolt"],
    BOLT_API=["__main__:api"],
    LOGGING_CONFIG=None,
)
django.setup()

from django_bolt import BoltAPI  # noqa: E402
from django_bolt.request import Request  # noqa: E402, TC002 - django-bolt reads the annotation

import usercontext.frameworks.django_bolt  # noqa: E402

from . import scenes  # noqa: E402
from .outside import watched  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

# Requests wait for each other in threads: as many are needed as there are requests.
_threads = ThreadPoolExecutor(32)

scenes.start()
logging.disable()

urlpatterns: list[Any] = []


def resolver(request: Any) -> dict[str, str] | None:
    """Find the user of a request."""
    return scenes.resolver(request)


class Watching:
    """Looks at the user around our middleware."""

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    async def __call__(self, request: Any) -> Any:
        """Serve one request."""
        async with watched(request.headers) as outside:
            response = await self._get_response(request)
            for name, value in outside.items():
                response.headers[name] = value
            return response


class Hooks(Watching):
    """Tells whom a middleware inside of ours sees when the endpoint is done."""

    async def __call__(self, request: Any) -> Any:
        """Serve one request."""
        response = await self._get_response(request)
        if request.path != "/idle":
            response.headers["x-middleware"] = str(scenes.who())
        return response


def plain(scene: Callable[..., Any]) -> Any:
    """Serve a scene that waits for nothing."""

    async def serve(request: Request) -> dict[str, Any]:
        return scene(request.headers)

    return serve


def thread(scene: Callable[..., Any]) -> Any:
    """Serve a scene in a thread."""

    async def serve(request: Request) -> dict[str, Any]:
        asyncio.get_running_loop().set_default_executor(_threads)
        return await asyncio.to_thread(scene, request.headers)

    return serve


def endpoint(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: Request) -> dict[str, Any]:
        return await scene(request.headers)

    return serve


ROUTES: dict[str, Any] = {
    **{path: plain(scene) for path, scene in scenes.SYNC.items()},
    **{path: thread(scene) for path, scene in scenes.THREADS.items()},
    **{path: endpoint(one) for path, one in scenes.ASYNC.items() if path != "/lifespan"},
    "/whoami": plain(scenes.whoami),
}

ours = usercontext.frameworks.django_bolt.UserContext(resolver=resolver)
api = BoltAPI(middleware=[Watching, ours, Hooks])
for path, serve in ROUTES.items():
    api.get(path)(serve)
    api.post(path)(serve)
    api.head(path)(serve)

if __name__ == "__main__":
    from django.core.management import call_command

    call_command("runbolt", host="127.0.0.1", port=int(sys.argv[1]))
