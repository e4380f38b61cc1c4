"""Every scene as views of Django: settings, URLs and a middleware of the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from . import scenes

if TYPE_CHECKING:
    from collections.abc import Callable


def configure() -> None:
    """Set Django up without a project, our middleware first."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DEBUG=False,
        LOGGING_CONFIG=None,
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
        MIDDLEWARE=[
            "usercontext.frameworks.django.UserContextMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            f"{__name__}.app_middleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        AUTHENTICATION_BACKENDS=[f"{__name__}.Accounts"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        ROOT_URLCONF=__name__,
        SECRET_KEY="for tests only",
    )
    django.setup()


def view(scene: Callable[..., Any]) -> Any:
    """Serve a scene synchronously."""

    def serve(request: HttpRequest) -> HttpResponse:
        return JsonResponse(scene(request.headers))

    return serve


def async_view(scene: Callable[..., Any]) -> Any:
    """Serve an asynchronous scene."""

    async def serve(request: HttpRequest) -> HttpResponse:
        return JsonResponse(await scene(request.headers))

    return serve


def stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields."""

    def serve(request: HttpRequest) -> StreamingHttpResponse:
        scenes.set_if_asked(request.headers)
        return StreamingHttpResponse(scene(request.headers), content_type="text/plain")

    return serve


def async_stream(scene: Callable[..., Any]) -> Any:
    """Serve a scene that yields asynchronously."""

    async def serve(request: HttpRequest) -> StreamingHttpResponse:
        scenes.set_if_asked(request.headers)
        return StreamingHttpResponse(scene(request.headers), content_type="text/plain")

    return serve


def whoami(request: HttpRequest) -> HttpResponse:
    """Say who it is after the body has been read."""
    len(request.body)
    return JsonResponse(scenes.whoami(request.headers))


async def async_whoami(request: HttpRequest) -> HttpResponse:
    """Say who it is after the body has been read, in the event loop."""
    len(request.body)
    return JsonResponse(scenes.whoami(request.headers))


class Accounts:
    """Knows every user of `django.contrib.auth` without a database."""

    def get_user(self, identifier: int) -> Any:
        """Return the user of this id."""
        from django.contrib.auth.models import User

        return User(pk=identifier, username=f"account-{identifier}")

    async def aget_user(self, identifier: int) -> Any:
        """Return the user of this id."""
        return self.get_user(identifier)


async def auser(request: Any) -> HttpResponse:
    """Log in as `x-auth`, ask Django who it is, and fail."""
    from django.contrib import auth

    account = Accounts().get_user(int(request.headers["x-auth"]))
    request.session[auth.SESSION_KEY] = str(account.pk)
    request.session[auth.BACKEND_SESSION_KEY] = f"{__name__}.Accounts"
    request.session[auth.HASH_SESSION_KEY] = account.get_session_auth_hash()
    await request.auser()
    scenes.boom(request.headers)
    return HttpResponse()


class _Closing(JsonResponse):
    """Looks at the user when the response is closed."""

    asked: Any = None

    def close(self) -> None:
        """Tell who is seen, then close."""
        scenes.background_thread(self.asked)
        super().close()


def on_close(request: HttpRequest) -> HttpResponse:
    """Answer, then look at the user when the response is closed."""
    response = _Closing(scenes.whoami(request.headers))
    response.asked = request.headers
    return response


def sub_requests(request: HttpRequest) -> HttpResponse:
    """Send requests to this very app over WSGI."""
    return JsonResponse(scenes.sub_requests_wsgi(scenes.this_app(), request.headers))


async def async_sub_requests(request: HttpRequest) -> HttpResponse:
    """Send requests to this very app over ASGI."""
    return JsonResponse(await scenes.sub_requests(scenes.this_app(), request.headers))


def thousand(request: HttpRequest) -> HttpResponse:
    """Send 1,000 requests to this very app over WSGI."""
    return JsonResponse(scenes.thousand_wsgi(scenes.this_app()))


async def async_thousand(request: HttpRequest) -> HttpResponse:
    """Send 1,000 requests to this very app over ASGI."""
    return JsonResponse(await scenes.thousand(scenes.this_app()))


class _AppMiddleware:
    """A middleware of the app, inside ours: sees the user of the endpoint and its errors."""

    async_capable = sync_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Tell whom a middleware sees when the view is done."""
        if iscoroutinefunction(self.get_response):
            return self._asynchronously(request)
        return self._marked(request, self.get_response(request))

    async def _asynchronously(self, request: HttpRequest) -> Any:
        return self._marked(request, await self.get_response(request))

    def _marked(self, request: HttpRequest, response: Any) -> Any:
        if request.path != "/idle":
            response["x-middleware"] = str(scenes.who())
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for the errors that the app handles."""
        if isinstance(error, scenes.HandledError):
            return JsonResponse(scenes.report_handled(error), status=409)
        return None


app_middleware = _AppMiddleware


def handler500(request: HttpRequest) -> HttpResponse:
    """Answer for every other error."""
    seen = {"current": scenes.who(), "request": scenes.who(request=request)}
    return JsonResponse(seen, status=500)


def _paths(make: Callable[[Any], Any], table: dict[str, Any]) -> list[Any]:
    return [path(route.removeprefix("/"), make(scene)) for route, scene in table.items()]


urlpatterns: list[Any] = [
    *_paths(view, scenes.SYNC | scenes.THREADS),
    *_paths(stream, scenes.SYNC_STREAMS),
    path("whoami", whoami),
    path("background", on_close),
    path("stream-plain", stream(scenes.chunks)),
    path("sub-requests", sub_requests),
    path("thousand", thousand),
]

async_urlpatterns: list[Any] = [
    *_paths(async_view, scenes.ASYNC),
    *_paths(async_stream, scenes.STREAMS),
    path("whoami", async_whoami),
    path("auser", auser),
    path("sub-requests", async_sub_requests),
    path("thousand", async_thousand),
]
